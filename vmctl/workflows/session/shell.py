"""The VM's shell, single commands and scp, over the warm connection."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from vmctl.config import Project
from vmctl.domain.command import command, quote_path
from vmctl.domain.errors import InvalidInput, NotFound, Unreachable
from vmctl.domain.terminal import Sinks
from vmctl.ssh.session.openssh import SSH_FAILED
from vmctl.workflows.session.session import connect_quietly


def ssh(project: Project, words: Sequence[str] = (), sinks: Sinks | None = None) -> int:
    """Log in, or run words as one command with a terminal; the exit code is the remote's.

    A terminal on the VM is handed over as it is. Without one, what the command
    writes goes to the sinks.
    """
    line = _posix_line(words) if words else None
    return connect_quietly(project).interactive(line, tty=os.isatty(0), sinks=sinks)


def exec_(project: Project, words: Sequence[str], sinks: Sinks | None = None) -> int:
    """Run one command in the project's folder, without a terminal; its exit code is returned."""
    if not words:
        raise InvalidInput("A command is missing.", hint="vmctl exec nvidia-smi")
    vm = connect_quietly(project)
    # before the first push there is no such folder: then it is the home
    there = f"cd {quote_path(project.workspace)} 2>/dev/null; {_posix_line(words)}"
    return vm.interactive(there, tty=False, sinks=sinks)


def scp(project: Project, words: Sequence[str], sinks: Sinks | None = None) -> int:
    """Real scp; a ':' in front of a path means on the VM, relative to the home there."""
    options = [word for word in words if word.startswith("-") and word != "-"]
    paths = [word for word in words if word not in options]
    for option in options:
        if not set(option[1:]) <= set("rpqCv"):
            raise InvalidInput(
                f"scp here takes -r, -p, -q, -C and -v, not '{option}'.",
                hint="vmctl scp -r :Workspace/runs .",
            )
    if len(paths) < 2 or not any(path.startswith(":") for path in paths):
        raise InvalidInput(
            "scp needs a source and a target, one of them on the VM.",
            hint="vmctl scp notes.txt :Workspace/  or  vmctl scp :Workspace/notes.txt .",
        )
    for path in paths[:-1]:
        if not path.startswith(":") and not os.path.lexists(path):
            raise NotFound(
                f"'{path}' is not on this computer.", hint=f"For a path on the VM: :{path}"
            )
    vm = connect_quietly(project)
    vm.verify()  # scp itself would wait for a dead connection
    alias = vm.target.alias
    named = [f"{alias}{path}" if path.startswith(":") else _local(path) for path in paths]
    code = vm.scp([*options, "--", *named], sinks.stderr if sinks else None)
    if code == SSH_FAILED and not vm.probe():
        raise Unreachable(
            "The connection to the VM was lost.", hint="See whether it runs: vmctl status"
        )
    return code


def remote_line(words: Sequence[str]) -> str:
    """One word is a line for the shell there; several are a program and its arguments."""
    return words[0] if len(words) == 1 else str(command(*words))


def _posix_line(words: Sequence[str]) -> str:
    """The same for /bin/sh: a line is the login shell's, which the user knows."""
    if len(words) == 1:
        return f'exec "${{SHELL:-/bin/sh}}" -c {shlex.quote(words[0])}'
    return str(command(*words))


def _local(path: str) -> str:
    """A path that scp cannot take for another host's."""
    return path if path.startswith(("/", "./", "../")) or path == "." else f"./{path}"
