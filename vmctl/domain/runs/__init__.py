"""Runs and tunnels."""
