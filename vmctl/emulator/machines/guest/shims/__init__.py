"""Stand-ins for the administrator's programs, copied into a machine's /usr/local/bin."""
