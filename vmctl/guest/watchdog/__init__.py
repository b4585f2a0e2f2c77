"""Stops the VM when nobody uses it; runs as root there."""
