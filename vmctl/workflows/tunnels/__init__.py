"""Tunnels and the records of those that are open on this computer."""
