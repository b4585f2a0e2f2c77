"""A story told in the background, so that another one can go on meanwhile."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Generic, TypeVar

from vmctl.domain.events import Event, Story
from vmctl.workflows.base.tasks import Errand

T = TypeVar("T")


class Beside(Generic[T]):
    """Plays a story in a thread of its own; what it tells waits until somebody asks."""

    def __init__(self, story: Story[T]) -> None:
        self._story = story
        self._told: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._errand = Errand(self._play)

    def events(self) -> Iterator[Event]:
        """What it has told since the last call."""
        while not self._told.empty():
            yield self._told.get()

    @property
    def is_done(self) -> bool:
        """Whether `result` would return, or raise, at once."""
        return self._errand.is_done

    def result(self) -> T:
        """What the story came to; raises what it raised."""
        return self._errand.result()

    def _play(self) -> T:
        while True:
            try:
                self._told.put(next(self._story))
            except StopIteration as end:
                result: T = end.value
                return result
