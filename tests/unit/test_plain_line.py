"""A command line that is read without typer means what it means to typer."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from vmctl.cli import plain_line
from vmctl.cli.app import app
from vmctl.cli.commands import COMMANDS
from vmctl.cli.options import Context, DeclaredCommand, Invocation

NAMES = [name for name in COMMANDS if name != "emulator"]
ODD = ["x", "", "-", "--", "-qy", "--name=x", "-nx", "--unknown", "--help", "-h", "-1", "a b", "é"]
PLAIN = [
    ["push"],
    ["push", "--dry-run", "-q"],
    ["--json", "push"],
    ["-n", "other", "exec", "ls", "-la"],
    ["exec", "--", "bash", "-lc", "python -V"],
    ["--cloud", "status", "--json"],
    ["fetch", "a", "--force", "b"],
    ["logs", "-f"],
    ["logs", "colorize", "-f"],
    ["run", "colorize", "--epochs", "3"],
    ["ssh"],
]
TYPERS = [
    [],
    ["--help"],
    ["push", "--help"],
    ["push", "--via", "rsync"],
    ["push", "--fast"],
    ["push", "x"],
    ["exec"],
    ["scp", "-r", "a", ":b"],
    ["up", "--gpu=t4"],
    ["emulator", "status"],
    ["pusk"],
]


class Called(Exception):
    """What a command would have been called with."""

    def __init__(self, name: str, context: Context, values: dict[str, Any]) -> None:
        super().__init__(name)
        self.call = (name, context, values)


def only_tells(name: str, command: DeclaredCommand) -> DeclaredCommand:
    """The same declaration of a command that raises its call instead of doing it."""

    @functools.wraps(command.function)
    def tell(context: Context, **values: Any) -> None:
        raise Called(name, context, values)

    def tell_gcloud(lines: Any, context: Context, **values: Any) -> Any:
        raise Called(f"{name} --print-gcloud", context, values)

    return command._replace(function=tell, print_gcloud=command.print_gcloud and tell_gcloud)


@pytest.fixture(scope="module")
def tree() -> Iterator[Any]:
    """typer's parser of commands that only tell their calls."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            commands = import_module(f"vmctl.cli.commands.{COMMANDS[name]}").PANEL.commands
            patch.setitem(commands, name, only_tells(name, commands[name]))
        yield typer.main.get_command(app)


def call_by_typer(tree: Any, words: list[str]) -> tuple[str, Context, dict[str, Any]]:
    with pytest.raises(Called) as called:
        tree.main(args=words, prog_name="vmctl", standalone_mode=False, obj=Invocation(words))
    return called.value.call


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_a_line_read_without_typer_means_the_same(tree: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    own = [
        word for item in tree.commands[name].params for word in (*item.opts, *item.secondary_opts)
    ]
    common = [word for item in tree.params for word in (*item.opts, *item.secondary_opts)]
    before = data.draw(st.lists(st.sampled_from([*common, "x", "--"]), max_size=2))
    after = data.draw(st.lists(st.sampled_from([*own, *ODD, "y", "z"]), max_size=5))
    words = [*before, name, *after]
    plain = plain_line.read(Invocation(words))
    if plain is not None:
        with pytest.raises(Called) as called:
            plain()
        assert called.value.call == call_by_typer(tree, words)


@pytest.mark.parametrize("words", PLAIN, ids=" ".join)
def test_what_is_typed_most_is_read_without_typer(tree: Any, words: list[str]) -> None:
    plain = plain_line.read(Invocation(words))
    assert plain is not None
    with pytest.raises(Called) as called:
        plain()
    assert called.value.call == call_by_typer(tree, words)


@pytest.mark.parametrize("words", TYPERS, ids=" ".join)
def test_everything_else_is_left_to_typer(words: list[str]) -> None:
    assert plain_line.read(Invocation(words)) is None


def test_a_completion_is_left_to_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_VMCTL_COMPLETE", "complete_bash")
    assert plain_line.read(Invocation(["push"])) is None
    assert plain_line.read(Invocation(["--version"])) is None


@pytest.mark.parametrize("words", [["--version"], ["push"], ["exec", "true"]], ids=" ".join)
def test_a_plain_line_needs_no_typer(words: list[str]) -> None:
    program = (
        "import json, sys; from vmctl.cli import plain_line; from vmctl.cli.options import "
        "Invocation; assert plain_line.read(Invocation(sys.argv[1:])); import "
        "vmctl.workflows.session.shell, vmctl.workflows.sync.push; print(json.dumps("
        "[name for name in sys.modules if name in ('typer', 'rich', 'click')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
