"""The VM itself: its Python, its sshd, how its boot goes."""
