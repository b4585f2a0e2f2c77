"""A user's computer: the `vmctl` program, its home, and folders to work in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.harness.fork_server import Forked, fork_server, forkable

PROGRAM = Path(sys.executable).with_name("vmctl")
ROOT = Path(__file__).resolve().parents[2]
started: list[subprocess.Popen[bytes]] = []  # by the test that runs, ended with it


@dataclass
class Laptop:
    """A user's computer: a home of its own for vmctl, and the emulator that it talks to."""

    home: Path
    emulator_home: Path
    extra: dict[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()  # what puts a command into another network, say

    @property
    def environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VMCTL_", "LANDSCAPES_"))}
        kept.pop("NO_COLOR", None)
        # measured, a program takes twice as long: only the forked ones are
        kept.pop("COVERAGE_PROCESS_CONFIG", None)
        images = os.environ.get("VMCTL_EMULATOR_IMAGES")
        return {
            **kept,
            "VMCTL_LOCAL": "1",
            "VMCTL_HOME": str(self.home),
            "VMCTL_EMULATOR_HOME": str(self.emulator_home),
            "VMCTL_EMULATOR_CHECK_REPLIES": "1",
            "VMCTL_OWNER": "tester",
            "XDG_RUNTIME_DIR": "",
            **({"VMCTL_EMULATOR_IMAGES": images} if images else {}),
            **self.extra,
        }

    def start(self, *words: str, cwd: Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start the installed program and do not wait for it."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        environ = self.environ | options.pop("environ", {})
        process = subprocess.Popen(
            [*self.prefix, PROGRAM, *words], cwd=cwd, env=environ, start_new_session=True, **options
        )
        started.append(process)
        return process

    def start_forked(self, *words: str, cwd: Path, output: IO[bytes]) -> Forked:
        """Start a forked process in a session of its own, which says everything into a file."""
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123
            streams = [nothing.fileno(), output.fileno(), output.fileno()]
            return fork_server(self.prefix).start(
                words, cwd=cwd, environ=self.environ, streams=streams, new_session=True
            )

    def __call__(
        self,
        *words: str,
        cwd: Path,
        code: int | None = 0,
        stdin: bytes | None = None,
        timeout_s: float = 120,
        environ: Mapping[str, str] | None = None,
        forked: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command line to its end and check its exit code; never a traceback.

        With `forked=False` in the installed program, from its first instruction on.
        """
        given = self.environ | dict(environ or {})
        if forked and forkable(given):
            returncode, *streams = fork_server(self.prefix).run(
                words, cwd=cwd, environ=given, stdin=stdin or b"", timeout_s=timeout_s
            )
        else:
            done = subprocess.run(
                [*self.prefix, PROGRAM, *words],
                cwd=cwd,
                env=given,
                input=stdin or b"",
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
            returncode, streams = done.returncode, [done.stdout, done.stderr]
        out, err = (stream.decode("utf-8", "replace") for stream in streams)
        transcript = f"$ vmctl {' '.join(words)}\n{out}{err}[exit {returncode}]"
        assert "Traceback" not in err, transcript
        if code is not None:
            assert returncode == code, transcript
        return subprocess.CompletedProcess(words, returncode, out, err)

    def typed(self, line: str, cwd: Path, **environ: str) -> str:
        """What a line typed into bash says, as it stands in the README; it must succeed."""
        path = f"{PROGRAM.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=cwd,
            env=self.environ | {"PATH": path} | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def json(self, *words: str, cwd: Path, **options: Any) -> Any:
        """The JSON document that a command prints."""
        return json.loads(self(*words, "--json", cwd=cwd, **options).stdout)


def project(folder: Path, toml: str, files: Mapping[str, str] | None = None) -> Path:
    """Write a project: its vmctl.toml and its files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vmctl.toml").write_text(toml, encoding="utf-8")
    for name, text in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


BASE = '[vm]\nimage = "ubuntu-2404-lts-amd64"\n'


def rows(text: str) -> Sequence[list[str]]:
    """The lines of a plain table as their words."""
    return [line.split() for line in text.splitlines()]
