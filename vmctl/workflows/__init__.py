"""What each command does, without a terminal; one folder per subsystem."""
