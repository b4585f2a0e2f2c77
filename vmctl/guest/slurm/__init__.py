"""A cluster's login node: jobs are handed to Slurm, and Slurm is asked what became of them."""
