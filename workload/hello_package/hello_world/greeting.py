"""What is told to whom."""


def greet(name: str, count: int = 1) -> str:
    """A line for each of `count` greetings."""
    return "\n".join(f"Hello, {name}!" for _ in range(count))
