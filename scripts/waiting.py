"""Waiting for what sends no word when it becomes true: another process's files, ports and lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
GAP_S = 0.01  # so much later than the truth an answer may be: some of them are timed


def eventually(question: Callable[[], T], what: str, *, within_s: float) -> T:
    """Ask until the answer is true and return it; TimeoutError names what never came."""
    deadline = time.monotonic() + within_s
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(GAP_S)
    return answer
