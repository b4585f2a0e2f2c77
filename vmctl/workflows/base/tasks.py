"""Calls and stories that run in the background while the story goes on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from vmctl.domain.events import Event, Story
from vmctl.workflows.base.stories import drain

T = TypeVar("T")


class Task(Future[T]):
    """One call in a thread of its own; the program's end does not wait for it."""

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__()
        # a daemon, unlike an executor's: a program that needs no result any more ends at once
        threading.Thread(target=self._run, args=(call,), daemon=True).start()

    def _run(self, call: Callable[[], T]) -> None:
        try:
            self.set_result(call())
        except BaseException as error:  # raised by result(), in the thread that asks
            self.set_exception(error)


class StoryTask(Task[T]):
    """Plays a story in a thread of its own; its events wait until somebody asks for them."""

    def __init__(self, story: Story[T]) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        super().__init__(lambda: drain(story, self._events.put))

    def events(self) -> Iterator[Event]:
        """The events since the last call."""
        while not self._events.empty():
            yield self._events.get()
