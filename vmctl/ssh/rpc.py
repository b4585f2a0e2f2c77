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
from typing import TYPE_CHECKING, Any

from vmctl.domain.errors import Conflict, IntegrityError, Unreachable, VmctlError
from vmctl.domain.login.ssh_target import ssh_failure
from vmctl.domain.replies import REFUSAL, checked, decoded, reply, unfit
from vmctl.domain.text import DISK_FULL_HINT, last_lines, refusal
from vmctl.guest.protocol import ABSENT, BROKEN, NOT_INSTALLED, REFUSED
from vmctl.ssh.session.openssh import SSH_FAILED, OpenSSH, is_ssh_failure

if TYPE_CHECKING:
    from vmctl.guest.protocol import BootRequest, PrepareRequest, Reply, Request, Verb

__all__ = ["ABSENT", "BROKEN", "NOT_INSTALLED", "REFUSED"]

PACKAGE = "vmctl_guest"
PARTS = ("files", "machine", "runs", "sync", "watchdog")
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


def verb_line(verb: str) -> str:
    """A shell line that runs one verb, or ends with ABSENT where the library is missing."""
    where = f'"$HOME/.vmctl/lib/{library_name()}"'
    return f"[ -d {where} ] || exit {ABSENT}; exec python3 -ISB {where} {shlex.quote(verb)}"


def install_line(request: PrepareRequest | None = None) -> str:
    """A shell line that installs the library from standard input and, if asked, prepares."""
    script = (_FOLDER / "install.sh").read_text(encoding="utf-8")
    installer = (_FOLDER / "installer.py").read_text(encoding="utf-8")
    words = ["sh", "-c", script, "sh", library_name(), installer]
    if request is not None:
        words.append(json.dumps(request))
    return " ".join(map(shlex.quote, words))


def watch_line(request: BootRequest) -> str:
    """A shell line that tells how the VM comes up, before anything is installed there."""
    source = (_FOLDER / "machine" / "boot_report.py").read_text(encoding="utf-8")
    words = ("exec", "python3", "-ISB", "-c", source, json.dumps(request))
    return " ".join(map(shlex.quote, words))


def call(ssh: OpenSSH, verb: Verb[Request, Reply], request: Request) -> Reply:
    """One request, one answer, checked; a refusal on the VM is raised as the error it names."""
    line, data = verb_line(verb), json.dumps(request).encode() + b"\n"
    done = ssh.run(line, input=data, timeout_s=CALL_S)
    if mended(ssh, done.code, done.stderr, said=bool(done.stdout)):
        done = ssh.run(line, input=data, timeout_s=CALL_S)
    return answer(verb, done.code, done.stdout, done.stderr)


def install(ssh: OpenSSH) -> bool:
    """Put the library on the VM where it is missing or not whole; rsync, tmux and python3 too.

    Returns whether it had to be put there.
    """
    done = ssh.run(install_line(), input=library()[1], timeout_s=INSTALL_S)
    if done.code != 0:
        raise install_failure(done.stderr)
    return b"installed" in done.stdout.splitlines()


def mended(ssh: OpenSSH, code: int, stderr: bytes, *, said: bool) -> bool:
    """Whether a verb ended as it did for want of a whole library, which is there now.

    It is missing, or a full disk or a power cut has cut one of its files short: then it ends
    without a word, or with Python's.
    """
    if code == ABSENT:
        install(ssh)
        return True
    if code == BROKEN or (code in (0, 1) and not said and _told(stderr) is None):
        return install(ssh)
    return False


def stream(ssh: OpenSSH, verb: Verb[Request, Any], request: Request) -> subprocess.Popen[bytes]:
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


def answer(verb: Verb[Any, Reply], code: int, stdout: bytes, stderr: bytes) -> Reply:
    """A verb's answer, checked, or its refusal raised."""
    if code != 0:
        raise failure(code, stderr)
    try:
        found = decoded(stdout)
    except ValueError as error:
        raise unfit(f"{verb} answers with no JSON, or too much of it") from error
    found_reply: Reply = reply(verb, found)
    return found_reply


def last_word(verb: Verb[Any, Reply], key: str, stderr: bytes) -> Reply | None:
    """What a verb that streams told at its end, checked; None where no line there has this key."""
    for line in reversed(stderr.splitlines()):
        try:
            found = decoded(line)
        except ValueError:
            continue
        if isinstance(found, dict) and key in found:
            last: Reply = reply(verb, found)
            return last
    return None


def failure(code: int, stderr: bytes) -> VmctlError:
    """What a verb that did not end well told."""
    if code == NOT_INSTALLED:
        return install_failure(stderr)
    told = _told(stderr)
    if told is not None:
        return refusal(told)
    words = last_lines(stderr.decode("utf-8", "replace"), 3)
    return IntegrityError(
        f"A helper on the VM failed (exit code {code}): {words or 'it printed nothing'}}}",
        hint="Check the VM: vmctl ssh",
    )


def _told(stderr: bytes) -> dict[str, Any] | None:
    """The reason that a helper gave; None where it gave none."""
    for line in reversed(stderr.splitlines()):
        try:
            found = decoded(line)
        except ValueError:
            continue
        if isinstance(found, dict) and "error" in found:
            told: dict[str, Any] = checked(REFUSAL, found, "a refusal")["error"]
            return told
    return None


def install_failure(stderr: bytes) -> Conflict:
    """Set-up could not lay itself out on the VM."""
    words = last_lines(stderr.decode("utf-8", "replace"), 3)
    full = "No space left on device" in words or "Disk quota exceeded" in words
    return Conflict(
        f"The VM cannot be set up: {words}",
        hint=DISK_FULL_HINT if full else "Check it: vmctl ssh; then: vmctl up",
    )


def ended(ssh: OpenSSH, code: int, stderr: bytes, *, said: bool = True) -> VmctlError:
    """The error of a streaming verb that ended early: the link's or the helper's.

    `said` is whether it had said anything.
    """
    if mended(ssh, code, stderr, said=said):
        return Unreachable(
            "vmctl's helpers were missing on the VM; they have been reinstalled.",
            hint="Run the same command again.",
        )
    if code in (SSH_FAILED, -15, -9):  # no verb ends with these
        words = stderr.decode("utf-8", "replace") if is_ssh_failure(stderr) else ""
        return ssh_failure(words, ssh.target)
    return failure(code, stderr)
