"""vmctl.toml: its template, its values, where the project begins."""
