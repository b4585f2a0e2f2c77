"""The embedded Compute Engine: a program of its own that speaks the v1 REST API on 127.0.0.1."""
