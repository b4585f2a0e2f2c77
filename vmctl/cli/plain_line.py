"""Command lines that are read without typer: a command, flags, options with a value, and words.

typer's import takes longer than `vmctl exec` or a push with nothing to do. A line that is not
plain (an unknown word, a value to convert, --help, a completion, whatever is wrong) is typer's:
what is read here means the same there, which tests/unit/test_plain_line.py compares.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from inspect import Parameter as Signed
from types import NoneType
from typing import Any

from vmctl.cli.commands import COMMANDS
from vmctl.cli.options import Context, DeclaredCommand, Invocation, common_parameters
from vmctl.cli.parameters import split_annotation

KNOWN = {"help", "metavar", "autocompletion", "rich_help_panel", "hidden"}  # they parse nothing


def read(invocation: Invocation) -> Callable[[], object] | None:
    """What a plain line runs; None where typer has to read it."""
    words = list(invocation.words)
    if os.environ.get("_VMCTL_COMPLETE"):
        return None
    if words == ["--version"]:
        from vmctl.cli.version import show

        return show
    outer = _Line(common_parameters())
    if not outer.take_options(words) or not words:
        return None
    name = words.pop(0)
    if name not in COMMANDS or name == "emulator":
        return None
    command = import_module(f"vmctl.cli.commands.{COMMANDS[name]}").PANEL.commands[name]
    values = _values(command, words)
    if values is None:
        return None
    invocation.before = Context(**outer.values)
    return lambda: command.run(invocation, values)


def _values(command: DeclaredCommand, words: list[str]) -> dict[str, Any] | None:
    """Each parameter's value, by its name; None where the line is not plain."""
    if command.passes_options_on:
        return None
    line = _Line(command.parameters())
    if command.passes_words_on:
        if not line.take_options(words):
            return None
        positional = words[1:] if words[:1] == ["--"] else words
    else:
        positional = []
        while words:
            if not line.take_options(words):
                return None
            if words:
                positional.append(words.pop(0))
    return line.values if line.take_arguments(positional) else None


class _Line:
    """The parameters of one command, and the values that its words give them."""

    def __init__(self, parameters: Iterable[Signed]) -> None:
        self.values: dict[str, Any] = {}
        self._flags: dict[str, tuple[str, bool]] = {}
        self._texts: dict[str, str] = {}
        self._arguments: list[tuple[str, Any, Any]] = []
        for item in parameters:
            kind, declared = split_annotation(item.annotation)
            if declared is not None and not declared.is_option:
                self._arguments.append((item.name, kind, item.default))
                continue
            self.values[item.name] = item.default
            if declared is not None and declared.settings.keys() <= KNOWN:
                names = declared.names or (f"--{item.name.replace('_', '-')}",)
                self._add_option(item.name, _without_none(kind), names)

    def _add_option(self, name: str, kind: Any, names: Sequence[str]) -> None:
        if kind is str:
            self._texts.update(dict.fromkeys(names, name))
        elif kind is bool:
            for words in names:
                on, _, off = words.partition("/")
                self._flags[on] = (name, True)
                if off:
                    self._flags[off] = (name, False)

    def take_options(self, words: list[str]) -> bool:
        """Take the options before the next word or "--"; whether all of them are plain."""
        while words and words[0].startswith("-") and words[0] != "--":
            word = words.pop(0)
            if word in self._flags:
                name, value = self._flags[word]
                self.values[name] = value
            elif word in self._texts and words and not words[0].startswith("-"):
                self.values[self._texts[word]] = words.pop(0)
            else:
                return False
        return True

    def take_arguments(self, words: list[str]) -> bool:
        """Give each argument its word, the last one of several all that is left."""
        for name, kind, default in self._arguments:
            many = _without_none(kind) == list[str]
            if not (many or _without_none(kind) is str) or "--" in words[: None if many else 1]:
                return False
            if words:
                self.values[name] = words[:] if many else words[0]
                del words[: None if many else 1]
            elif default is Signed.empty:
                return False
            else:
                self.values[name] = default
        return not words


def _without_none(kind: Any) -> Any:
    """`str` of `str | None`."""
    rest = [item for item in typing.get_args(kind) if item is not NoneType]
    return rest[0] if NoneType in typing.get_args(kind) and len(rest) == 1 else kind
