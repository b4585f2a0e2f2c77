"""The smallest job that is a package: several modules, installed and run as python -m."""
