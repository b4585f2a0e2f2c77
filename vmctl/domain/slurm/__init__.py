"""Slurm: the batch script of a run, what the queue says of it, and refusals in words."""
