"""Images of machines, built once."""
