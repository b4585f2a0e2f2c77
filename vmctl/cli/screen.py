"""Draws what workflows tell: live on a terminal, as plain lines in a pipe, or not at all.

Results go to standard output, everything on the way to standard error, so that
`vmctl ls --json | jq` and `vmctl run train > train.log` work as one expects.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from vmctl.cli import terminal
from vmctl.cli.rate import TransferRate
from vmctl.cli.terminal import BOLD, GREEN, YELLOW, Part, Styled
from vmctl.cli.text import format_progress, format_seconds
from vmctl.domain.events import (
    Advanced,
    Event,
    Finished,
    Info,
    Output,
    RunStarted,
    Started,
    Story,
    UrlReady,
    Warned,
)
from vmctl.domain.terminal import visible
from vmctl.workflows.base.stories import drain

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class HasText(Protocol):
    """A result with a few lines for people."""

    @property
    def text(self) -> str: ...


T = TypeVar("T")
Result = TypeVar("Result", bound=HasText)
NARROW = 60  # columns


class Screen:
    """Where one command draws."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        assume_yes: bool = False,
        wording: Callable[[str], str] = str,
    ) -> None:
        """`wording` gets every sentence about what happens, and returns it as it is shown."""
        self.as_json = as_json
        self.quiet = quiet
        self.assume_yes = assume_yes
        self._wording = wording
        self.live = sys.stderr.isatty() and not quiet and os.environ.get("TERM") != "dumb"
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._last_text = ""
        self._mid_line = False
        self._rate = TransferRate()

    # -- stories -----------------------------------------------------------------------------

    def play(self, story: Story[T], watch: Callable[[Event], None] = lambda _: None) -> T:
        """Draw a story to its end and return its result; its clean-up runs in every case.

        `watch` sees every event, too, after it was drawn.
        """

        def take(event: Event) -> None:
            self._draw(event)
            watch(event)

        try:
            return drain(story, take)
        finally:
            self._clear()

    def _draw(self, event: Event) -> None:
        match event:
            case Output(data):
                self._clear()
                terminal.job_output(data, errors=self.as_json)
                self._mid_line = not data.endswith(b"\n")
            case Warned(text):
                self._line(text, Styled("warning: ", YELLOW))
            case UrlReady(url):
                self._clear()
                if self.as_json:
                    terminal.document({"url": url})
                else:
                    terminal.line(url)
            case _ if self.quiet:
                pass
            case Info(text) | RunStarted(_, text):
                self._clear()
                self._line(text)
            case Started(_, text):
                self._begin(text)
            case Advanced():
                self._advance(event)
            case Finished(_, text, seconds):
                took = f" ({format_seconds(seconds)})" if seconds is not None else ""
                self._clear()
                self._line(f"{text}{took}", Styled("✓ ", GREEN))

    def _begin(self, text: str) -> None:
        text = self._last_text = self._wording(text)
        self._rate = TransferRate()
        if not self.live:
            self._line(text, "… ")
            return
        self._clear()
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = terminal.console()
        # a narrow terminal has room for what happens, not for how long it has
        clock = [TimeElapsedColumn()] if console.width >= NARROW else []
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[amount]}", markup=False),
            *clock,
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(visible(text), total=None, amount="")
        self._progress.start()

    def _advance(self, event: Advanced) -> None:
        if event.done_bytes is not None:
            self._rate.record(event.done_bytes, time.monotonic())
        amount = format_progress(event, self._rate)
        if self._progress is not None and self._task is not None:
            text = visible(self._wording(event.text or self._last_text))
            self._progress.update(self._task, description=text, amount=amount)
        elif event.text and event.text != self._last_text:
            self._last_text = event.text
            self._line(event.text, "… ")

    def _clear(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None

    def _line(self, text: str, mark: Part = "") -> None:
        if self._mid_line:  # a job's output stopped in the middle of a line
            terminal.note()
            self._mid_line = False
        terminal.note(mark, self._wording(text))

    # -- questions and results ---------------------------------------------------------------

    def confirm(self, question: str, *, without_terminal: bool, by_default: bool = True) -> bool:
        """Ask; Enter alone means `by_default`, no terminal to ask on `without_terminal`."""
        self._clear()
        if self.assume_yes:
            return True
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return without_terminal
        choice = "[Y/n]" if by_default else "[y/N]"
        terminal.note(f"{question} {choice} ", end="")
        answer = sys.stdin.readline()
        if not answer:  # Ctrl-D: the line is still open
            terminal.note()
            return False
        word = answer.strip().lower()
        return word in {"y", "yes"} or (not word and by_default)

    def agree(self, question: str) -> bool:
        """Ask about what cannot be taken back: Enter alone means no, and so does no terminal."""
        return self.confirm(question, without_terminal=False, by_default=False)

    def ask(self, question: str, default: str) -> str:
        """Ask for a word or a line; Enter alone, or nobody to ask, means `default`.

        Ctrl-D is Ctrl-C: raises KeyboardInterrupt.
        """
        self._clear()
        if self.assume_yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return default
        offered = f" [{default}]" if default else ""
        terminal.note(f"{question}{offered}: ", end="")
        answer = sys.stdin.readline()
        if not answer:
            raise KeyboardInterrupt
        return answer.strip() or default

    def say(self, *parts: Part) -> None:
        """A line of the result, for people; nothing under --json."""
        if not self.as_json:
            terminal.line(*parts)

    def note(self, text: str) -> None:
        """A line for people on standard error, apart from the result."""
        if not self.quiet and not self.as_json:
            self._line(text)

    def next_steps(self, steps: Sequence[tuple[str, str]]) -> None:
        """Lines to paste next, with what each one does."""
        if self.quiet or self.as_json or not steps:
            return
        steps = [(self._wording(line), meaning) for line, meaning in steps]
        width = max(len(line) for line, _ in steps)
        self._line("Next:")
        for line, meaning in steps:
            self._line(f"  {line.ljust(width)}  {meaning}")

    def document(self, result: object) -> None:
        """The result as JSON, under --json."""
        if self.as_json:
            from vmctl.cli.json_results import to_plain

            terminal.document(to_plain(result), indent=2)

    def report(self, story: Story[Result]) -> Result:
        """Play a story and show its result: its text, or JSON under --json."""
        result = self.play(story)
        self.document(result)
        self.say(result.text)
        return result

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Aligned columns; no cell is ever broken, so that names can be copied from any width.

        On a terminal that is too narrow for a line each row becomes lines of its own.
        """
        if self.as_json:
            return
        lines = [list(headings), *([visible(cell, keep="") for cell in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        total = sum(widths) + 2 * (len(widths) - 1)
        if sys.stdout.isatty() and total > _columns():
            self._records(lines)
            return
        for number, line in enumerate(lines):
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            text = "  ".join(cells).rstrip()
            terminal.line(text if number else Styled(text, BOLD))

    def _records(self, lines: Sequence[Sequence[str]]) -> None:
        """A table's rows one below the other: a heading and its cell on each line."""
        headings, *rows = lines
        width = max(map(len, headings))
        for number, row in enumerate(rows):
            if number:
                terminal.line()
            for heading, cell in zip(headings, row, strict=True):
                if cell:
                    terminal.line(Styled(heading.ljust(width), BOLD), f"  {cell}".rstrip())


def _columns() -> int:
    """Of the terminal."""
    from shutil import get_terminal_size  # it brings packers along, which a push does without

    return get_terminal_size().columns
