"""What `vmctl --version` prints."""

from __future__ import annotations

from vmctl import __version__
from vmctl.cli import terminal


def show() -> None:
    """One line."""
    terminal.line(f"vmctl {__version__}")
