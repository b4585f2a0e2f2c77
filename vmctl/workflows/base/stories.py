"""Playing stories and other generators that return a result."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from vmctl.domain.events import Event, Story

S = TypeVar("S")
T = TypeVar("T")


def drain(story: Generator[S, None, T], take: Callable[[S], object] = lambda _: None) -> T:
    """Play a story to its end and return its result; `take` gets each event, if anybody wants it.

    The story is closed in every case, so that its clean-up has run.
    """
    try:
        while True:
            take(next(story))
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        story.close()


def as_story(steps: Generator[S, None, T], event: Callable[[S], Event | None]) -> Story[T]:
    """A story of any generator: `event` turns each of its items into an event, or into none."""
    try:
        while True:
            if (made := event(next(steps))) is not None:
                yield made
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()
