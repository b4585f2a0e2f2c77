"""Faults on request: outages, stockouts, slow or broken boots, paused calls."""
