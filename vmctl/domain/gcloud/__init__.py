"""Equivalent gcloud command lines."""
