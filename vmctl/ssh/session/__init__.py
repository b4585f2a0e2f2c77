"""One OpenSSH session: its control master, its clients, and how it comes back."""
