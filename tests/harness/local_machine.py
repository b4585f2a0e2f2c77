"""A machine without a network: its home is a folder here, its helpers are the real ones.

What ssh does, carrying three streams to a shell line, a pipe does as well and a hundred times
cheaper. `lies` puts a program of the test's in the place of one helper: what a job could do that
has taken the machine over.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmctl.config import Project
from vmctl.domain.command import Command
from vmctl.domain.errors import TimedOut
from vmctl.domain.events import Event, Story
from vmctl.domain.login.ssh_target import Target
from vmctl.domain.settings.job_settings import JobSettings
from vmctl.guest.protocol import REPLY
from vmctl.ssh.remote_output import after_mark, exchange, without_noise
from vmctl.ssh.session.openssh import COMMAND_S, OpenSSH, Result
from vmctl.workflows.runs import backend
from vmctl.workflows.session import reconnect
from vmctl.workflows.session.session import Session
from vmctl.workflows.sync import fetch, pull, push

HEAD = """
import hashlib, json, os, sys, time, zlib
request = json.loads(sys.stdin.buffer.readline())
def say(record):
    sys.stdout.write(json.dumps(record) + "\\n"); sys.stdout.flush()
def raw(data):
    sys.stdout.buffer.write(data); sys.stdout.buffer.flush()
print("vmctl-begins-7d1f4c", flush=True)
def lists(listing):
    data = zlib.compress(json.dumps(listing).encode())
    say({"listing": len(data)}); raw(data)
def wants():
    return json.loads(sys.stdin.buffer.readline())["files"] if request["ask"] else None
def sends(number, data, listed=None, **trailer):
    say({"number": number, "offset": 0, "bytes": len(data)}); raw(data)
    sha256 = hashlib.sha256(data).hexdigest()
    say({"sha256": sha256, "changed": False, "mtime_ns": 1, "mode": 0o644, **trailer})
"""


class LocalMachine(OpenSSH):
    """Takes the place of a connection; `lies` are programs by the ends of lines."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.lies: dict[str, str] = {}
        home.mkdir(parents=True, exist_ok=True)

    @property
    def target(self) -> Target:
        """An address at which nothing listens."""
        return Target("1", "127.0.0.1", 9, "ann", "/no/key", "/no/hosts")

    def lie(self, verb: str, program: str) -> None:
        """From now on this Python program answers to a verb."""
        self.lies[f" {verb}"] = HEAD + textwrap.dedent(program)

    def popen(self, command: str | Command) -> subprocess.Popen[bytes]:  # type: ignore[override]
        """Start a line as the login shell there would."""
        line = str(command)
        words = ["sh", "-c", after_mark(line)]
        for end, program in self.lies.items():
            if line.endswith(end):
                file = self.home / "lie.py"
                file.write_text(program)
                words = [sys.executable, "-ISB", str(file)]
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"HOME": str(self.home), "PATH": os.environ["PATH"], "TMUX_TMPDIR": str(self.home)},
            start_new_session=True,
        )

    def run(
        self,
        command: str | Command,
        *,
        input: bytes | None = None,
        timeout_s: float = COMMAND_S,
    ) -> Result:
        """Run one line to its end."""
        with self.popen(command) as process:
            try:
                stdout, stderr = exchange(process, input or b"", timeout_s)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise TimedOut("too long") from error
            except BaseException:
                process.kill()
                raise
        own = without_noise(stdout)
        if REPLY not in own and any(str(command).endswith(end) for end in self.lies):
            own = b"%s%d\n%s" % (REPLY, len(own), own)
        return Result(process.returncode, own, stderr)


def local_project(root: Path) -> Project:
    """A project with a job that runs in a folder of its own."""
    root.mkdir(parents=True, exist_ok=True)
    train = JobSettings("train", "python train.py", directory="src", outputs=("model.bin", "runs"))
    return Project(
        root=root, name="demo", owner="ann", google_project="none", jobs={"train": train}
    )


def connected(monkeypatch: pytest.MonkeyPatch, machine: LocalMachine) -> Callable[..., object]:
    """Every command reaches this machine."""

    def connect(*_: object, **__: object) -> Story[Session]:
        yield from ()
        return Session(machine)

    for module in (fetch, pull, push, backend, reconnect):
        monkeypatch.setattr(module, "connect", connect)
    return connect


def play(story: Story[Any], on: Callable[[Event], None] = lambda event: None) -> Any:
    """A story's result; `on` hears its events."""
    try:
        while True:
            on(next(story))
    except StopIteration as end:
        return end.value
