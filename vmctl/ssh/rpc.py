"""Calls of the helpers on the VM, which are installed there when they are missing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmctl.domain.errors import Conflict, IntegrityError, Unreachable, VmctlError
from vmctl.domain.guest_replies import REFUSAL, reply
from vmctl.domain.login.ssh_target import VM_PLACE, GuestPlace
from vmctl.domain.reply_shapes import checked, decoded, unexpected_reply
from vmctl.domain.text import DISK_FULL_HINT, guest_error, last_lines
from vmctl.guest.protocol import ABSENT, BROKEN, NOT_INSTALLED, REFUSED, REPLY, WORKSPACES_VARIABLE
from vmctl.ssh.session.openssh import SSH_FAILED, OpenSSH, is_ssh_failure

if TYPE_CHECKING:
    from vmctl.guest.machine.messages import BootRequest, PrepareRequest
    from vmctl.guest.protocol import Reply, Request, Verb

__all__ = ["ABSENT", "BROKEN", "NOT_INSTALLED", "REFUSED"]

PACKAGE = "vmctl_guest"
SERVER_PYTHON = '"$HOME/.vmctl/python"'  # where install.sh leaves what it found
PARTS = ("files", "machine", "runs", "slurm", "sync", "watchdog")
ENTRY = f"""try:
    from {PACKAGE}.main import main
except Exception:  # whatever half a file makes of an import
    raise SystemExit({BROKEN}) from None
raise SystemExit(main())
"""

CALL_S = 900.0  # a start takes along a tree, and brings home what a killed run left
INSTALL_S = 3600.0  # packages, and dpkg may be busy for long
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
    files = {}
    for folder in ("", *PARTS):
        for name in os.listdir(_FOLDER / folder):  # noqa: PTH208  half the time, in every command
            if name.endswith(".py"):
                path = f"{folder}/{name}" if folder else name
                files[f"{PACKAGE}/{path}"] = (_FOLDER / path).read_bytes()
    return sorted({**files, "__main__.py": ENTRY.encode()}.items())


def verb_line(verb: str, place: GuestPlace = VM_PLACE) -> str:
    """A shell line that runs one verb, or ends with ABSENT where the library is missing."""
    where = f'"$HOME/.vmctl/lib/{library_name()}"'
    ready, python, set_up = f"[ -d {where} ]", "python3", ""
    if place.is_server:
        ready, python = f"{ready} && [ -x {SERVER_PYTHON} ]", SERVER_PYTHON
        set_up = (
            f"{WORKSPACES_VARIABLE}={shlex.quote(place.workspaces)}; export {WORKSPACES_VARIABLE}; "
        )
    return f"{ready} || exit {ABSENT}; {set_up}exec {python} -ISB {where} {shlex.quote(verb)}"


def install_line(request: PrepareRequest | None = None, place: GuestPlace = VM_PLACE) -> str:
    """A shell line that installs the library from standard input and, if asked, prepares."""
    script = (_FOLDER / "install.sh").read_text(encoding="utf-8")
    installer = (_FOLDER / "installer.py").read_text(encoding="utf-8")
    words = ["sh", "-c", script, "sh", library_name(), installer]
    words.append(json.dumps(request) if request is not None else "")
    if place.is_server:
        words += [place.python, " ".join(place.modules)]
    return " ".join(map(shlex.quote, words))


def boot_report_line(request: BootRequest) -> str:
    """A shell line that reports how the VM boots, before anything is installed there."""
    source = (_FOLDER / "machine" / "boot_report.py").read_text(encoding="utf-8")
    words = ("exec", "python3", "-ISB", "-c", source, json.dumps(request))
    return " ".join(map(shlex.quote, words))


def call(ssh: OpenSSH, verb: Verb[Request, Reply], request: Request) -> Reply:
    """One request, one checked reply; a refusal on the VM is raised as the error it names."""
    line, data = verb_line(verb, ssh.target.place), json.dumps(request).encode() + b"\n"
    done = ssh.run(line, input=data, timeout_s=CALL_S)
    if repair(ssh, done.code, done.stderr, replied=REPLY in done.stdout):
        done = ssh.run(line, input=data, timeout_s=CALL_S)
    return parse_reply(verb, done.code, done.stdout, done.stderr)


def install(ssh: OpenSSH) -> bool:
    """Put the library on the VM where it is missing or not whole; rsync, tmux and python3 too.

    Returns whether it had to be put there.
    """
    done = ssh.run(install_line(place=ssh.target.place), input=library()[1], timeout_s=INSTALL_S)
    if done.code != 0:
        raise explain_install_failure(done.stderr)
    return b"installed" in done.stdout.splitlines()


def repair(ssh: OpenSSH, code: int, stderr: bytes, *, replied: bool) -> bool:
    """Install the library if its absence or damage explains how a verb ended; whether it did.

    A full disk or a power cut may have cut a file short: then the verb ends without a reply, or
    with Python's own message.
    """
    if code == ABSENT:
        install(ssh)
        return True
    if code == BROKEN or (code in (0, 1) and not replied and _find_refusal(stderr) is None):
        return install(ssh)
    return False


def stream(ssh: OpenSSH, verb: Verb[Request, Any], request: Request) -> subprocess.Popen[bytes]:
    """Start a verb that streams; its standard input stays open, closing it ends the verb.

    Where the library is missing it ends with ABSENT; `explain_end` installs it.
    """
    process = ssh.popen(verb_line(verb, ssh.target.place))
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # ssh has ended already: its exit code and its message say why
    return process


def parse_reply(verb: Verb[Any, Reply], code: int, stdout: bytes, stderr: bytes) -> Reply:
    """A verb's checked reply; raises its refusal."""
    if code != 0:
        raise explain_failure(code, stderr)
    try:
        found = decoded(own_reply(stdout))
    except ValueError as error:
        raise unexpected_reply(f"the reply to {verb} is not JSON, or too long") from error
    found_reply: Reply = reply(verb, found)
    return found_reply


def own_reply(output: bytes) -> bytes:
    """The reply in what came, whatever a start file or its children have written around it.

    Raises ValueError where there is none.
    """
    _, mark, rest = output.rpartition(REPLY)
    length, line_end, rest = rest.partition(b"\n")
    if not (mark and line_end and length.isdigit()) or len(rest) < int(length):
        raise ValueError("no reply")
    return rest[: int(length)]


def parse_last_reply(verb: Verb[Any, Reply], key: str, stderr: bytes) -> Reply | None:
    """A streaming verb's last line with this key on standard error, checked; None without one."""
    for line in reversed(stderr.splitlines()):
        try:
            found = decoded(line)
        except ValueError:
            continue
        if isinstance(found, dict) and key in found:
            last: Reply = reply(verb, found)
            return last
    return None


def explain_failure(code: int, stderr: bytes) -> VmctlError:
    """The error of a verb that failed."""
    if code == NOT_INSTALLED:
        return explain_install_failure(stderr)
    found = _find_refusal(stderr)
    if found is not None:
        return guest_error(found)
    words = last_lines(stderr.decode("utf-8", "replace"), 3)
    return IntegrityError(
        f"A helper on the VM failed (exit code {code}): {words or 'it printed nothing'}",
        hint="Check the VM: vmctl ssh",
    )


def _find_refusal(stderr: bytes) -> dict[str, Any] | None:
    """The reason that a helper gave, or None."""
    for line in reversed(stderr.splitlines()):
        try:
            found = decoded(line)
        except ValueError:
            continue
        if isinstance(found, dict) and "error" in found:
            error: dict[str, Any] = checked(REFUSAL, found, "a refusal")["error"]
            return error
    return None


def explain_install_failure(stderr: bytes) -> Conflict:
    """The error of an installation that failed."""
    words = last_lines(stderr.decode("utf-8", "replace"), 3)
    full = "No space left on device" in words or "Disk quota exceeded" in words
    return Conflict(
        f"The VM cannot be set up: {words}",
        hint=DISK_FULL_HINT if full else "Check it: vmctl ssh; then: vmctl up",
    )


def explain_end(ssh: OpenSSH, code: int, stderr: bytes, *, replied: bool = True) -> VmctlError:
    """The error of a streaming verb that ended early: the link's or the helper's.

    `replied`: whether it had sent anything.
    """
    if repair(ssh, code, stderr, replied=replied):
        return Unreachable(
            "vmctl's helpers were missing on the VM; they have been reinstalled.",
            hint="Run the same command again.",
        )
    if code in (SSH_FAILED, -15, -9):  # no verb ends with these
        words = stderr.decode("utf-8", "replace") if is_ssh_failure(stderr) else ""
        return ssh.target.failure(words)
    return explain_failure(code, stderr)
