"""Greet somebody, once or several times."""

import argparse
import os
import sys
from pathlib import Path

from .greeting import greet


def write_to_log_file() -> None:
    """On Vertex AI, output that is wanted in the bucket goes into the file that LOG_PATH names."""
    if "LOG_PATH" in os.environ:
        file = Path(os.environ["LOG_PATH"])
        file.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout = sys.stderr = file.open("a", buffering=1, encoding="utf-8")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="world", help="whom to greet")
    parser.add_argument("--count", type=int, default=1, help="how often")
    flags = parser.parse_args()
    write_to_log_file()
    print(greet(flags.name, flags.count))
    print(f"{__package__} runs from {Path(__file__).parent}")


if __name__ == "__main__":
    main()
