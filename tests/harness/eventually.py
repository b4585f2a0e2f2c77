"""Waiting for what sends no word when it becomes true: another process's files, ports and state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")
GAP_S = 0.05  # looking more often would slow down what is waited for


def eventually(
    question: Callable[[], T], what: str = "", *, within_s: float = 30.0, gap_s: float = GAP_S
) -> T:
    """Ask until the answer is true and return it; fail with what never came."""
    deadline = time.monotonic() + within_s
    while not (answer := question()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s:g} s: {what or question}")
        time.sleep(gap_s)
    return answer
