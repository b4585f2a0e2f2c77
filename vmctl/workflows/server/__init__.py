"""Servers and clusters that the user reaches by SSH: whether they are ready, and who uses them."""
