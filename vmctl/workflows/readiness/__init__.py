"""From RUNNING to a VM that can train: the stages of a bring-up."""
