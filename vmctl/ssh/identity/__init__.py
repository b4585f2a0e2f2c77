"""Keys, known hosts, and the user's own ssh configuration."""
