"""Attacks that must fail: by a cloned folder, a hostile machine, a neighbour on this computer."""
