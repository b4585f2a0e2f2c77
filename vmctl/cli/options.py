"""The global options, which stand before or after a command's name, and the command decorator."""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from vmctl.cli.completion import GPUS, NAMES, TARGETS
from vmctl.cli.print_gcloud import PrintGcloud, show_gcloud
from vmctl.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.config import Project
    from vmctl.domain.events import Story
    from vmctl.domain.settings.target_settings import TargetSettings
    from vmctl.workflows.setup.print_gcloud import Equivalent

Function = TypeVar("Function", bound=Callable[..., None])
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
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="TARGET",
        help="A target of vmctl.toml instead of a VM, or ssh/user@host, or slurm/host.",
        autocompletion=TARGETS,
        rich_help_panel=PANEL,
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Answer yes to every question.", rich_help_panel=PANEL)
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

# used by several commands
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
    on: str | None = None
    yes: bool = False
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    takes_target: bool = False  # whether the command works on servers and clusters, too

    def under(self, outer: Context) -> Context:
        """These options where given, else those before the command's name."""
        return Context(
            local=outer.local if self.local is None else self.local,
            name=outer.name if self.name is None else self.name,
            on=outer.on if self.on is None else self.on,
            yes=self.yes or outer.yes,
            json=self.json or outer.json,
            quiet=self.quiet or outer.quiet,
            verbose=self.verbose or outer.verbose,
            takes_target=self.takes_target,
        )

    def project(self, **vm: Any) -> Project:
        """The project of the current folder under these options and flags for its [vm] table."""
        from vmctl.config import Flags, load_project

        try:
            folder = Path.cwd()
        except FileNotFoundError as error:
            raise NotFound(
                "The current folder no longer exists.", hint="Change to your project's folder: cd …"
            ) from error
        project = load_project(folder, flags=Flags(self.local, self.name, self.on, vm))
        return project if project.target is None else self._on_target(project, project.target)

    def _on_target(self, project: Project, target: TargetSettings) -> Project:
        """The project as this command takes it; a target that only the file names is asked about.

        A folder that came from elsewhere must not choose on which of the user's machines it runs.
        """
        if not self.takes_target:
            if self.on:
                raise InvalidInput(
                    f"This command is about Compute Engine, not about {target.name}.",
                    hint="Leave --on out. What works there: push, run, logs, ps, attach, cancel, "
                    "fetch, pull, tunnel, ssh, exec, up, down, status, doctor",
                )
            return replace(project, target=None)
        if target.from_file:
            from vmctl.workflows.base.agreements import agree_on_target

            agree_on_target(project, target, self.screen().agree)
        return project

    def screen(self) -> Screen:
        from vmctl.cli.screen import Screen

        return Screen(as_json=self.json, quiet=self.quiet, assume_yes=self.yes)


@dataclass(slots=True)
class Invocation:
    """One command line (click's `ctx.obj`): its words, and the global options parsed so far.

    Until a command's own options are parsed, the raw words decide how an error is shown.
    """

    words: Sequence[str] = ()
    before: Context = Context()  # the options before the command's name
    context: Context | None = None

    @property
    def wants_json(self) -> bool:
        """Whether errors are JSON as well."""
        return self.context.json if self.context else "--json" in self._own_words()

    @property
    def wants_verbose(self) -> bool:
        """Whether to show a traceback: `--verbose`, or VMCTL_VERBOSE in the environment."""
        wanted = self.context.verbose if self.context else "--verbose" in self._own_words()
        return wanted or bool(os.environ.get("VMCTL_VERBOSE"))

    def _own_words(self) -> Sequence[str]:
        """The words before `--`; what follows belongs to the program on the VM."""
        words = self.words
        return words[: words.index("--")] if "--" in words else words


_COMMON: dict[str, tuple[Any, Any]] = {
    "local": (Local, None),
    "name": (Name, None),
    "on": (On, None),
    "yes": (Yes, False),
    "json": (Json, False),
    "quiet": (Quiet, False),
    "verbose": (Verbose, False),
}


class Panel:
    """One panel of `vmctl --help`; `command` collects its commands, `add_to` registers them."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._registrations: dict[str, Callable[[typer.Typer], None]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The commands, in the order of their definitions."""
        return tuple(self._registrations)

    def add_to(self, app: typer.Typer, only: str | None = None) -> None:
        """Register the commands with an app, in the order of their definitions, or one of them."""
        for name in self.names if only is None else (only,):
            self._registrations[name](app)

    def command(
        self,
        name: str,
        *,
        examples: str,
        print_gcloud: Callable[..., Story[Equivalent]] | None = None,
        passes_words_on: bool = False,
        passes_options_on: bool = False,
        takes_target: bool = False,
    ) -> Callable[[Function], Function]:
        """Collect a command: its own parameters, the global options, its help with examples.

        The function's first parameter receives the Context; parameters in a `**` TypedDict are
        options as well. `print_gcloud` adds that option: called with the module of the same name,
        the context and the command's own values, it makes the equivalent lines. With
        `passes_words_on` all that follows the first argument belongs to the program on the VM;
        with `passes_options_on` unknown options belong to it as well. `takes_target`: it works on
        servers and clusters, too.
        """

        def collect(function: Function) -> Function:
            paragraphs = (inspect.getdoc(function) or "").split("\n\n")
            lines = "\n\n".join(f"    {line}" for line in examples.strip().splitlines())

            def register(app: typer.Typer) -> None:
                app.command(
                    name,
                    help="\n\n".join(" ".join(part.split()) for part in paragraphs),
                    rich_help_panel=self.title,
                    epilog=f"Examples:\n\n{lines}",
                    context_settings={
                        "allow_interspersed_args": not passes_words_on,
                        "ignore_unknown_options": passes_options_on,
                    },
                )(_wrap(function, print_gcloud, takes_target))

            self._registrations[name] = register
            return function

        return collect


def _wrap(
    function: Callable[..., None],
    print_gcloud: Callable[..., Story[Equivalent]] | None,
    takes_target: bool,
) -> Callable[..., None]:
    """The function as typer shall see it: with the global options instead of a Context."""

    def wrapper(ctx: typer.Context, **values: Any) -> None:
        invocation = ctx.ensure_object(Invocation)
        common = {key: values.pop(key) for key in _COMMON}
        context = invocation.context = Context(**common, takes_target=takes_target).under(
            invocation.before
        )
        if invocation.wants_verbose:
            from vmctl.cli import terminal

            terminal.log_to_stderr()
        try:
            if print_gcloud and values.pop("print_gcloud"):
                show_gcloud(context, lambda lines: print_gcloud(lines, context, **values))
            else:
                function(context, **values)
        except KeyboardInterrupt:  # typer would end without a word
            raise typer.Abort from None

    parameters = [
        inspect.Parameter("ctx", _KEYWORD, annotation=typer.Context),
        *_list_parameters(function),
        *([_make_parameter("print_gcloud", PrintGcloud, False)] if print_gcloud else []),
        *(
            _make_parameter(key, annotation, default)
            for key, (annotation, default) in _COMMON.items()
        ),
    ]
    wrapper.__name__ = function.__name__
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {item.name: item.annotation for item in parameters}
    return wrapper


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _list_parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    """A command's parameters but its Context; those of a `**` TypedDict come first."""
    hints = typing.get_type_hints(function, include_extras=True)
    own: list[inspect.Parameter] = []
    for item in list(inspect.signature(function).parameters.values())[1:]:
        if item.kind is inspect.Parameter.VAR_KEYWORD:
            (options,) = typing.get_args(hints[item.name])
            inner = typing.get_type_hints(options, include_extras=True)
            own[:0] = [
                _make_parameter(name, annotation, None) for name, annotation in inner.items()
            ]
        else:
            own.append(item.replace(annotation=hints[item.name], kind=_KEYWORD))
    return own


def _make_parameter(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, _KEYWORD, default=default, annotation=annotation)
