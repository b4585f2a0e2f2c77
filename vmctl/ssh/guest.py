"""Talk to vmctl's helpers on the VM; they are installed there when they are missing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from vmctl.domain.errors import Conflict, Unreachable, VmctlError
from vmctl.domain.probe import last_lines, refusal
from vmctl.domain.target import ssh_failure
from vmctl.ssh.openssh import SSH_FAILED, OpenSSH, is_ssh_failure

ABSENT = 97  # the library is not on the VM
REFUSED = 96
NOT_INSTALLED = 95
PACKAGE = "vmctl_guest"
ENTRY = f"from {PACKAGE}.main import main\n\nraise SystemExit(main())\n"


_FOLDER = Path(__file__).parent.parent / "guest"


@cache
def library_name() -> str:
    """The helpers' name on the VM: a digest of their sources, so that other sources are others."""
    digest = hashlib.sha256()
    for name, data in _sources():
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]


@cache
def library() -> tuple[str, bytes]:
    """The helpers' name and the helpers as one archive, the same bytes for the same sources."""
    import gzip  # only when something is installed
    import tarfile

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in _sources():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o600
            archive.addfile(entry, io.BytesIO(data))
    return library_name(), gzip.compress(raw.getvalue(), mtime=0)


@cache
def _sources() -> list[tuple[str, bytes]]:
    files = {
        f"{PACKAGE}/{name}": (_FOLDER / name).read_bytes()
        for name in os.listdir(_FOLDER)  # noqa: PTH208  half the time, in every command
        if name.endswith(".py")
    }
    return sorted({**files, "__main__.py": ENTRY.encode()}.items())


def verb_line(verb: str) -> str:
    """A shell line that runs one verb, or ends with ABSENT where the library is missing."""
    where = f'"$HOME/.vmctl/lib/{library_name()}"'
    return f"[ -d {where} ] || exit {ABSENT}; exec python3 -I {where} {shlex.quote(verb)}"


def install_line(request: dict[str, Any] | None = None) -> str:
    """A shell line that installs the library from standard input and, if asked, prepares."""
    script = (_FOLDER / "install.sh").read_text(encoding="utf-8")
    words = ["sh", "-c", script, "sh", library_name()]
    if request is not None:
        words.append(json.dumps(request))
    return " ".join(map(shlex.quote, words))


def watch_line(request: dict[str, Any]) -> str:
    """A shell line that tells how the VM comes up, before anything is installed there."""
    source = (_FOLDER / "watch.py").read_text(encoding="utf-8")
    return " ".join(map(shlex.quote, ("exec", "python3", "-IS", "-c", source, json.dumps(request))))


def call(ssh: OpenSSH, verb: str, request: dict[str, Any]) -> dict[str, Any]:
    """One request, one answer; a refusal on the VM is raised as the error it names."""
    line, data = verb_line(verb), json.dumps(request).encode() + b"\n"
    done = ssh.run(line, input=data)
    if done.code == ABSENT:
        install(ssh)
        done = ssh.run(line, input=data)
    return answer(done.code, done.stdout, done.stderr)


def install(ssh: OpenSSH) -> None:
    """Put the library on the VM; rsync, tmux and python3 too where they are missing."""
    done = ssh.run(install_line(), input=library()[1])
    if done.code != 0:
        raise install_failure(done.stderr)


def stream(ssh: OpenSSH, verb: str, request: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start a verb that streams; its standard input stays open, closing it ends the verb.

    Where the library is missing it ends with ABSENT; `ended` puts it there.
    """
    process = ssh.popen(verb_line(verb))
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # ssh has ended already: its exit code and its words tell why
    return process


def answer(code: int, stdout: bytes, stderr: bytes) -> dict[str, Any]:
    """A verb's answer, or its refusal raised."""
    if code == 0:
        try:
            found = json.loads(stdout)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
    raise failure(code, stderr)


def failure(code: int, stderr: bytes) -> VmctlError:
    """What a verb that did not end well told."""
    if code == NOT_INSTALLED:
        return install_failure(stderr)
    for line in reversed(stderr.decode("utf-8", "replace").splitlines()):
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and isinstance(told.get("error"), dict):
            return refusal(told["error"])
    words = last_lines(stderr.decode("utf-8", "replace"), 3)
    return VmctlError(f"A helper on the VM failed (exit code {code}): {words}")


def install_failure(stderr: bytes) -> Conflict:
    """Set-up could not lay itself out on the VM."""
    words = last_lines(stderr.decode("utf-8", "replace"), 3)
    return Conflict(
        f"The VM cannot be set up: {words}", hint="Look at it: vmctl ssh, then: vmctl up"
    )


def ended(ssh: OpenSSH, code: int, stderr: bytes) -> VmctlError:
    """The error of a streaming verb that ended early: the link's or the helper's."""
    if code == ABSENT:
        install(ssh)
        return Unreachable(
            "vmctl's helpers were missing on the VM; they are there now.",
            hint="Run the same command again.",
        )
    if code in (SSH_FAILED, -15, -9):  # no verb ends with these
        words = stderr.decode("utf-8", "replace") if is_ssh_failure(stderr) else ""
        return ssh_failure(words, ssh.target)
    return failure(code, stderr)
