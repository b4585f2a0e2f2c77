"""Waiting for what sends no event when it becomes true: another process's files, ports, state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
GAP_S = 0.05  # looking more often would slow down what is waited for


class NotInTime(AssertionError):
    """What was waited for did not become true within its limit."""


def eventually(
    question: Callable[[], T], what: str = "", *, within_s: float = 30.0, gap_s: float = GAP_S
) -> T:
    """Ask until the answer is true and return it; NotInTime names what never came."""
    __tracebackhide__ = True  # pytest shows the line that waited
    deadline = time.monotonic() + within_s
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {within_s:g} s: {what or question}")
        time.sleep(gap_s)
    return answer
