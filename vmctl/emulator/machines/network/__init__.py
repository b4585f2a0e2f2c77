"""How machines reach the internet, each other, and ports of this computer."""
