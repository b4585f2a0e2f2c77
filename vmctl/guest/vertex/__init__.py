"""Vertex AI: what runs in the container of a custom job."""
