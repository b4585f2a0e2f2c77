"""Firewall rules, addresses and who may reach SSH."""
