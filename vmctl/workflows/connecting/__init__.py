"""The ways to the project and to its VM: the API, the warm connection, the key, the firewall."""
