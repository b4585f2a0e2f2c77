"""The state of the embedded Compute Engine and how it changes."""
