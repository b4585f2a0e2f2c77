"""The global options, which stand before or after a command's name, and the command decorator."""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from vmctl.cli.completion import GPUS, NAMES, TARGETS
from vmctl.cli.parameters import for_typer, option
from vmctl.cli.print_gcloud import PrintGcloud, show_gcloud
from vmctl.domain.errors import InvalidInput, NotFound, connection_error

if TYPE_CHECKING:
    import typer

    from vmctl.cli.screen import Screen
    from vmctl.config import Project
    from vmctl.domain.events import Story
    from vmctl.domain.settings.target_settings import TargetSettings
    from vmctl.workflows.setup.print_gcloud import Equivalent

Function = TypeVar("Function", bound=Callable[..., object])
Wrapped = TypeVar("Wrapped", bound=Callable[..., object])
PANEL = "Global options"

Local = Annotated[
    bool | None,
    option(
        "--local/--cloud",
        help="Use the embedded Compute Engine on this computer, no account needed.",
        rich_help_panel=PANEL,
    ),
]
Name = Annotated[
    str | None,
    option(
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
    option(
        "--on",
        metavar="TARGET",
        help="A target of vmctl.toml instead of a VM, or ssh/user@host, or slurm/host.",
        autocompletion=TARGETS,
        rich_help_panel=PANEL,
    ),
]
Yes = Annotated[
    bool, option("--yes", "-y", help="Answer yes to every question.", rich_help_panel=PANEL)
]
Json = Annotated[
    bool,
    option("--json", help="Print the result as one JSON document.", rich_help_panel=PANEL),
]
Quiet = Annotated[
    bool, option("--quiet", "-q", help="No progress, only results.", rich_help_panel=PANEL)
]
Verbose = Annotated[
    bool,
    option("--verbose", help="Show where an error came from.", rich_help_panel=PANEL),
]

# used by several commands
GpuOption = Annotated[
    str | None,
    option(
        metavar="GPU[:N]",
        help="t4, l4, p100, v100, a100, h100 …, or none.",
        autocompletion=GPUS,
    ),
]

SERVICE_COMMANDS = ("push", "run", "logs", "ps", "cancel", "fetch", "gc", "doctor")


@dataclass(slots=True)
class Wording:
    """How sentences that are about a VM read for the target of this command line."""

    target: TargetSettings | None = None

    def __call__(self, text: str) -> str:
        if self.target is None:
            return text
        from vmctl.domain.settings.target_words import reword

        return reword(text, self.target)


class Context(NamedTuple):
    """The global options of one command line."""

    local: bool | None = None
    name: str | None = None
    on: str | None = None
    yes: bool = False
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    takes_target: bool = False  # whether the command works on servers and clusters, too
    takes_service: bool = False  # whether it works on Vertex AI, where there is no machine
    wording: Wording | None = None  # the Invocation's own

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
            takes_service=self.takes_service,
            wording=self.wording,
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
        is_service = target.vertex is not None
        if not (self.takes_target or (self.takes_service and is_service)):
            if self.on:
                raise InvalidInput(
                    f"This command is about Compute Engine, not about {target.name}.",
                    hint="Leave --on out. What works there: push, run, logs, ps, attach, cancel, "
                    "fetch, pull, tunnel, ssh, exec, up, down, status, doctor",
                )
            return replace(project, target=None)
        if is_service and not self.takes_service:
            raise InvalidInput(
                "This command needs a machine, and on Vertex AI there is none to reach.",
                hint=f"What works there: {', '.join(SERVICE_COMMANDS)}. On a VM: --on vm",
            )
        if self.wording:
            self.wording.target = target
        if target.from_file:
            from vmctl.workflows.base.agreements import agree_on_target

            agree_on_target(project, target, self.screen().agree)
        return project

    def screen(self) -> Screen:
        from vmctl.cli.screen import Screen

        return Screen(
            as_json=self.json, quiet=self.quiet, assume_yes=self.yes, wording=self.wording or str
        )


NO_OPTIONS = Context()


@dataclass(slots=True)
class Invocation:
    """One command line (click's `ctx.obj`): its words, and the global options parsed so far.

    Until a command's own options are parsed, the raw words decide how an error is shown.
    """

    words: Sequence[str] = ()
    before: Context = NO_OPTIONS  # the options before the command's name
    context: Context | None = None
    wording: Wording = field(default_factory=Wording)

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


class DeclaredCommand(NamedTuple):
    """One command as it is declared; its function's first parameter receives the Context."""

    function: Callable[..., object]
    examples: str
    print_gcloud: Callable[..., Story[Equivalent]] | None
    passes_words_on: bool
    passes_options_on: bool
    takes_target: bool
    takes_service: bool

    def parameters(self) -> list[inspect.Parameter]:
        """Its own, then the options that every command has."""
        lines = [make_parameter("print_gcloud", PrintGcloud, False)] if self.print_gcloud else []
        return [*_list_parameters(self.function), *lines, *common_parameters()]

    def run(self, invocation: Invocation, values: dict[str, Any]) -> object:
        """Call it with the values of its parameters; what it returns is the exit code, if any."""
        common = {key: values.pop(key) for key in _COMMON}
        context = Context(
            **common,
            takes_target=self.takes_target,
            takes_service=self.takes_service,
            wording=invocation.wording,
        ).under(invocation.before)
        invocation.context = context
        if invocation.wants_verbose:
            from vmctl.cli import terminal

            terminal.log_to_stderr()
        make = self.print_gcloud
        if make and values.pop("print_gcloud"):
            show_gcloud(context, lambda lines: make(lines, context, **values))
            return None
        try:
            return self.function(context, **values)
        except BrokenPipeError as error:
            from vmctl.cli import terminal

            if terminal.reader_left():
                raise  # `vmctl logs | head`
            raise connection_error() from error


class Panel:
    """One panel of `vmctl --help`; `command` collects its commands, `add_to` registers them."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.commands: dict[str, DeclaredCommand] = {}  # in the order of their definitions

    def add_to(self, app: typer.Typer, only: str | None = None, *, outline: bool = False) -> None:
        """Register the commands with an app, in the order of their definitions, or one of them.

        As an outline they have no parameters: for a list of commands.
        """
        for name in self.commands if only is None else (only,):
            command = self.commands[name]
            paragraphs = (inspect.getdoc(command.function) or "").split("\n\n")
            lines = "\n\n".join(f"    {line}" for line in command.examples.strip().splitlines())
            app.command(
                name,
                help="\n\n".join(" ".join(part.split()) for part in paragraphs),
                rich_help_panel=self.title,
                epilog=f"Examples:\n\n{lines}",
                context_settings={
                    "allow_interspersed_args": not command.passes_words_on,
                    "ignore_unknown_options": command.passes_options_on,
                },
            )(_wrap(command, [] if outline else command.parameters()))

    def command(
        self,
        name: str,
        *,
        examples: str,
        print_gcloud: Callable[..., Story[Equivalent]] | None = None,
        passes_words_on: bool = False,
        passes_options_on: bool = False,
        takes_target: bool = False,
        takes_service: bool = False,
    ) -> Callable[[Function], Function]:
        """Collect a command: its own parameters, the global options, its help with examples.

        The function's first parameter receives the Context; parameters in a `**` TypedDict are
        options as well. `print_gcloud` adds that option: called with the module of the same name,
        the context and the command's own values, it makes the equivalent lines. With
        `passes_words_on` all that follows the first argument belongs to the program on the VM;
        with `passes_options_on` unknown options belong to it as well. `takes_target`: it works on
        servers and clusters, too; `takes_service`: on Vertex AI as well.
        """

        def collect(function: Function) -> Function:
            self.commands[name] = DeclaredCommand(
                function,
                examples,
                print_gcloud,
                passes_words_on,
                passes_options_on,
                takes_target,
                takes_service,
            )
            return function

        return collect


def _wrap(
    command: DeclaredCommand, parameters: Sequence[inspect.Parameter]
) -> Callable[..., object]:
    """The command as typer shall see it: with the global options instead of a Context."""
    import typer

    def wrapper(ctx: typer.Context, **values: Any) -> object:
        try:
            return command.run(ctx.ensure_object(Invocation), values)
        except KeyboardInterrupt:  # typer would end without a word
            raise typer.Abort from None

    wrapper.__name__ = command.function.__name__
    return sign(wrapper, parameters)


def sign(function: Wrapped, parameters: Iterable[inspect.Parameter]) -> Wrapped:
    """The function of a `ctx` and keywords, with the parameters that typer shall see."""
    import typer

    signed = [
        inspect.Parameter("ctx", _KEYWORD, annotation=typer.Context),
        *(item.replace(annotation=for_typer(item.annotation)) for item in parameters),
    ]
    function.__signature__ = inspect.Signature(signed)  # type: ignore[attr-defined]
    function.__annotations__ = {item.name: item.annotation for item in signed}
    return function


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def common_parameters() -> list[inspect.Parameter]:
    """The options of every command."""
    return [make_parameter(key, *given) for key, given in _COMMON.items()]


def _list_parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    """A command's parameters but its Context; those of a `**` TypedDict come first."""
    hints = typing.get_type_hints(function, include_extras=True)
    own: list[inspect.Parameter] = []
    for item in list(inspect.signature(function).parameters.values())[1:]:
        if item.kind is inspect.Parameter.VAR_KEYWORD:
            (options,) = typing.get_args(hints[item.name])
            inner = typing.get_type_hints(options, include_extras=True)
            own[:0] = [make_parameter(name, annotation, None) for name, annotation in inner.items()]
        else:
            own.append(item.replace(annotation=hints[item.name], kind=_KEYWORD))
    return own


def make_parameter(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, _KEYWORD, default=default, annotation=annotation)
