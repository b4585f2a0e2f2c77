"""The VM's end of a push."""
