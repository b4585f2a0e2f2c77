"""What a machine has besides the disk that it boots from, and what lies next to that disk."""
