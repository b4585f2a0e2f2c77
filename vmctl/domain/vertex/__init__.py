"""Vertex AI custom jobs: what is asked for, what became of it, what a refusal means."""
