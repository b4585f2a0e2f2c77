"""What a workflow tells while it works. The CLI draws these; nothing else does.

A workflow is a generator: it yields events and returns its result.

    def up(...) -> Story[UpResult]:
        yield Started("create", "n1-standard-4 + T4 in europe-west1-b")
        ...
        return UpResult(...)

Named tuples: a dataclass takes seven times as long to define, in every command.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Started(NamedTuple):
    """A step began; `step` is its short stable name, `text` what a person reads."""

    step: str
    text: str


class Advanced(NamedTuple):
    """The running step moved: bytes done of a total where known, or a new line of detail."""

    step: str
    text: str = ""
    done_bytes: int | None = None
    total_bytes: int | None = None


class Finished(NamedTuple):
    """A step ended well; `seconds` is how long it took where that was measured."""

    step: str
    text: str
    seconds: float | None = None


class Info(NamedTuple):
    """A fact worth a line."""

    text: str


class Warned(NamedTuple):
    """Something the user should know before it hurts."""

    text: str


class Output(NamedTuple):
    """Raw bytes that a job wrote, to be shown as they are."""

    data: bytes


class RunStarted(NamedTuple):
    """A run is on its way on the VM, whatever becomes of us from here on."""

    run_id: str
    text: str


@dataclass(frozen=True, slots=True)  # a result for --json, too
class UrlReady:
    """A page answers at this URL."""

    url: str


Event = Started | Advanced | Finished | Info | Warned | Output | RunStarted | UrlReady
Story = Generator[Event, None, T]
