"""Prices, bills and the ledger's arithmetic."""
