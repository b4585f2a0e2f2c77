"""The stages of a bring-up and what doctor checks."""
