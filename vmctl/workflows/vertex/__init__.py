"""Jobs on Vertex AI, and the archives in a bucket from which they start."""
