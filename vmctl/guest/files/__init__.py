"""The VM's end of fetch and pull."""
