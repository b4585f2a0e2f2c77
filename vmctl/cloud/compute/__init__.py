"""Compute Engine: requests, responses, and one module per kind of question."""
