"""The options that every command takes, before or after its name, and what they make."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmctl.cli.completion import GPUS, NAMES
from vmctl.domain.errors import NotFound

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.config import Project

PANEL = "Global options"

Local = Annotated[
    bool | None,
    typer.Option(
        "--local/--cloud",
        help="Use the embedded Compute Engine on this computer, no account needed.",
        rich_help_panel=PANEL,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        "-n",
        metavar="NAME",
        help="Name of the VM; by default the project folder's.",
        autocompletion=NAMES,
        rich_help_panel=PANEL,
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Ask nothing, go ahead.", rich_help_panel=PANEL)
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON document.", rich_help_panel=PANEL),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, only results.", rich_help_panel=PANEL)
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", help="Show where an error came from.", rich_help_panel=PANEL),
]

# of some commands
GpuOption = Annotated[
    str | None,
    typer.Option(
        metavar="GPU[:N]",
        help="t4, l4, p100, v100, a100, h100 …, or none.",
        autocompletion=GPUS,
    ),
]


@dataclass(frozen=True, slots=True)
class Context:
    """The global options of one command line."""

    local: bool | None = None
    name: str | None = None
    yes: bool = False
    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def under(self, outer: Context) -> Context:
        """These options where given, else those that stood before the command's name."""
        return Context(
            local=outer.local if self.local is None else self.local,
            name=outer.name if self.name is None else self.name,
            yes=self.yes or outer.yes,
            json=self.json or outer.json,
            quiet=self.quiet or outer.quiet,
            verbose=self.verbose or outer.verbose,
        )

    def project(self, **vm_flags: Any) -> Project:
        """The project of the current folder under these options and the command's own flags."""
        from vmctl.config import Flags, load_project

        flags = replace(Flags(**vm_flags), local=self.local, name=self.name)
        try:
            here = Path.cwd()
        except FileNotFoundError as error:
            raise NotFound(
                "The current folder no longer exists.", hint="Change to your project's folder: cd …"
            ) from error
        return load_project(here, flags=flags)

    def screen(self) -> Screen:
        from vmctl.cli.screen import Screen

        return Screen(as_json=self.json, quiet=self.quiet, assume_yes=self.yes)


_COMMON: dict[str, tuple[Any, Any]] = {
    "local": (Local, None),
    "name": (Name, None),
    "yes": (Yes, False),
    "json": (Json, False),
    "quiet": (Quiet, False),
    "verbose": (Verbose, False),
}

_outer = Context()
_reached: Context | None = None


def remember(context: Context) -> None:
    """Keep the options given before the command's name, for the command that follows."""
    global _outer, _reached
    _outer, _reached = context, None


def forget() -> None:
    """Begin a new command line: nothing of an earlier one in this process counts."""
    remember(Context())


def command(
    app: typer.Typer,
    name: str,
    *,
    panel: str,
    examples: str,
    passes_words_on: bool = False,
    passes_options_on: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command: its own parameters, the global options, its help with examples.

    The function's first parameter receives the Context. With `passes_words_on` everything
    after the first argument belongs to the program that runs on the VM; with
    `passes_options_on` an option that is none of ours is that program's, too.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]
        own = [item.replace(annotation=hints[item.name]) for item in own]

        @functools.wraps(function)
        def wrapper(**values: Any) -> None:
            global _reached
            common = {key: values.pop(key) for key in _COMMON}
            _reached = Context(**common).under(_outer)
            if wants_verbose(()):
                from vmctl.cli import terminal

                terminal.log_to_stderr()
            try:
                function(_reached, **values)
            except KeyboardInterrupt:  # typer would end without a word
                raise typer.Abort from None

        extra = [
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
            for key, (annotation, default) in _COMMON.items()
        ]
        own = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own]
        del wrapper.__wrapped__  # typer would read the old signature
        wrapper.__signature__ = inspect.Signature([*own, *extra])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {item.name: item.annotation for item in [*own, *extra]}
        paragraphs = (inspect.getdoc(function) or "").split("\n\n")
        lines = "\n\n".join(f"    {line}" for line in examples.strip().splitlines())
        app.command(
            name,
            help="\n\n".join(" ".join(part.split()) for part in paragraphs),
            rich_help_panel=panel,
            epilog=f"Examples:\n\n{lines}",
            context_settings={
                "allow_interspersed_args": not passes_words_on,
                "ignore_unknown_options": passes_options_on,
            },
        )(wrapper)
        return function

    return register


def wants_json(words: Sequence[str]) -> bool:
    """Whether an error, too, should be JSON; the raw words tell where they were not understood."""
    return _reached.json if _reached else "--json" in _ours(words)


def wants_verbose(words: Sequence[str]) -> bool:
    """Whether to show a traceback: `--verbose`, or VMCTL_VERBOSE in the environment."""
    wanted = _reached.verbose if _reached else "--verbose" in _ours(words)
    return wanted or bool(os.environ.get("VMCTL_VERBOSE"))


def _ours(words: Sequence[str]) -> Sequence[str]:
    """The words up to `--`: what follows belongs to somebody else's program."""
    return words[: words.index("--")] if "--" in words else words
