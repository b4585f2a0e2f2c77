"""Machines: GPUs, machine types, placement, what an instance is made of."""
