"""From RUNNING to a VM that can train: the stages that each way up climbs."""
