"""What other programs printed once, kept under tests/data/outputs for the tests of parsers."""

from __future__ import annotations

from pathlib import Path

OUTPUTS = Path(__file__).resolve().parents[1] / "data" / "outputs"


def saved_output(name: str) -> str:
    """A saved output, with its own line ends."""
    return (OUTPUTS / f"{name}.txt").read_bytes().decode("utf-8")
