"""What vmctl assumes about Google, checked against Google itself."""
