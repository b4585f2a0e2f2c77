"""push, pull and fetch, the side of this computer."""
