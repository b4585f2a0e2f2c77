"""What machines cost, what is left over, and the ledger."""
