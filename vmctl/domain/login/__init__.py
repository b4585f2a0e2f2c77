"""Keys, targets and entries for ~/.ssh/config."""
