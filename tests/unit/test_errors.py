"""The exit codes that the README promises, and command lines that cannot be read."""

from __future__ import annotations

import errno
import functools
import json
import os
import subprocess
import sys

import pytest

from vmctl import __main__ as program
from vmctl.cli.commands.machine import PANEL
from vmctl.domain import errors
from vmctl.domain.errors import VmctlError, exit_code_of

CODES = {
    "VmctlError": 1,
    "InvalidInput": 2,
    "NotFound": 3,
    "Conflict": 4,
    "AccessDenied": 5,
    "NoCapacity": 6,
    "Unreachable": 7,
    "HostKeyChanged": 7,
    "TimedOut": 8,
    "IntegrityError": 9,
}


def test_each_class_has_the_code_that_is_promised() -> None:
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, VmctlError) and name != "JobFailed"
    }
    assert {name: exit_code_of(kind("x")) for name, kind in classes.items()} == CODES


def test_a_jobs_own_code_is_the_commands() -> None:
    assert exit_code_of(errors.JobFailed("x", code=77)) == 77


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["frobnicate"], 2, "frobnicate"),
        (["run"], 2, "job"),
        (["up", "--disk-gb", "much"], 2, "--disk-gb"),
    ],
)
def test_a_line_that_cannot_be_read_is_an_error_with_the_help_as_its_hint(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main([*words, "--json"]) == code
    told = json.loads(capsys.readouterr().err)
    assert told["exit_code"] == code
    assert says in told["message"]
    assert told["hint"].startswith("See: vmctl")
    assert told["hint"].endswith("--help")


def test_a_question_that_nobody_waits_for_keeps_no_command_and_changes_no_code() -> None:
    script = (
        "import threading, vmctl.__main__ as program\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print('the result', end='')\n"
        "program.leave(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"the result", b"")


@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError])
def test_a_connection_that_breaks_ends_no_command_silently(
    error: type[OSError],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Only a reader that left is no error: `vmctl logs | head`."""

    command = PANEL.commands["ls"]

    @functools.wraps(command.function)
    def fail(*_: object, **__: object) -> None:
        raise error(errno.EPIPE if error is BrokenPipeError else errno.ECONNRESET, "broken")

    monkeypatch.setitem(PANEL.commands, "ls", command._replace(function=fail))
    assert program.main(["ls"]) == 7
    assert "error: A connection ended in the middle" in capfd.readouterr().err


def test_a_reader_that_left_is_no_error() -> None:
    nobody, output = os.pipe()
    os.close(nobody)
    line = [sys.executable, "-m", "vmctl", "--help"]
    done = subprocess.run(line, stdout=output, stderr=subprocess.PIPE, check=False)
    os.close(output)
    assert done.stderr == b""
