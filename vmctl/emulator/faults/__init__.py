"""Faults to order: outages, stockouts, slow or broken boots."""
