"""A question asked in the background while the story goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Errand(Generic[T]):
    """One call in a thread of its own; nobody waits for it unless its answer is wanted."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._answer: list[T] = []
        self._error: Exception | None = None
        # a daemon: a program that does not need the answer any more ends at once
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether `result` would return, or raise, at once."""
        return not self._thread.is_alive()

    def result(self) -> T:
        """The answer once it is there; raises what the call raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._answer[0]

    def _run(self) -> None:
        try:
            self._answer.append(self._call())
        except Exception as error:
            self._error = error
