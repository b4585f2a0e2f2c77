"""Vertex AI's custom jobs: each runs for real on a machine that is made for it."""
