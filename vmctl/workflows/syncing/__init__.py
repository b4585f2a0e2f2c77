"""What push, pull and fetch have in common: what is taken, what is known, and coming back."""
