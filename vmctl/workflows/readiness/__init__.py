"""From RUNNING to a VM that can train: the rungs that each way up climbs."""
