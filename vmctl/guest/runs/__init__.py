"""Runs and services on the VM."""
