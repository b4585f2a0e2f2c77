"""The parts of a self-test: what it reads, what it makes, what it has seen, what it clears away."""
