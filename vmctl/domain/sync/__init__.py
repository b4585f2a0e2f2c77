"""Trees of files, their differences, and what does not travel."""
