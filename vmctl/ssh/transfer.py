"""The one door for files: trees to the VM by rsync, files back as a resumed, proven stream."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

from vmctl.domain.errors import Conflict, InvalidInput, NotFound, NotProvenWhole, VmctlError
from vmctl.domain.probe import last_lines, printable
from vmctl.domain.target import rsync_word, ssh_failure
from vmctl.domain.transfer import RsyncStats, rsync_name, rsync_progress, rsync_stats
from vmctl.ssh import guest
from vmctl.ssh.openssh import OpenSSH, is_ssh_failure

CHUNK_BYTES = 1 << 20
LINE_LIMIT = 1 << 16
PART_SUFFIX = ".vmctl-part"

# -- push ------------------------------------------------------------------------------------


def push_tree(
    ssh: OpenSSH,
    root: Path,
    paths: Sequence[str],
    destination: str,
    *,
    temp_dir: str = "",
    dry_run: bool = False,
) -> Generator[int, None, tuple[RsyncStats, list[str]]]:
    """Copy these paths below `root` to a folder below the VM's home; yields bytes done.

    Files are replaced atomically one by one. Returns what rsync counted and the files and links
    that moved, or in a dry run would. Raises one clear error where anything could not be copied.
    """
    argv = [_rsync(), "-ltpz", "--from0", "--files-from=-", "--stats", "--out-format=%i %n"]
    if _speaks_info():
        argv += ["--info=progress2", "--no-human-readable"]
    if temp_dir:
        argv.append(f"--temp-dir={temp_dir}")
    if dry_run:
        argv.append("--dry-run")
    shell = " ".join(rsync_word(word) for word in ["ssh", "-F", str(ssh.config_file)])
    argv += ["-e", shell, "./", f"{ssh.target.alias}:{destination}/"]
    with tempfile.TemporaryFile() as names, tempfile.TemporaryFile() as errors:
        names.write(b"".join(os.fsencode(path) + b"\0" for path in paths))
        names.seek(0)
        process = subprocess.Popen(
            argv,
            cwd=root,
            stdin=names,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
        try:
            said = yield from _progress(process)
            code = process.wait()
        finally:
            end_process(process)
        errors.seek(0)
        told = errors.read().decode("utf-8", "replace")
    if code != 0:
        raise _rsync_failure(ssh, code, told)
    moves = re.findall(r"^[<>c][fL]\S* (.*)$", said, re.MULTILINE)
    return rsync_stats(said), [rsync_name(name) for name in moves]


def _progress(process: subprocess.Popen[bytes]) -> Generator[int, None, str]:
    """Yields the bytes done; returns everything else that was said."""
    assert process.stdout is not None
    kept: list[str] = []
    rest = b""
    while data := os.read(process.stdout.fileno(), 1 << 16):
        *lines, rest = re.split(rb"[\r\n]", rest + data)
        for line in lines:
            text = line.decode("utf-8", "replace")
            done = rsync_progress(text)
            if done is None:
                kept.append(text)
            else:
                yield done
    return "\n".join([*kept, rest.decode("utf-8", "replace")])


def _rsync_failure(ssh: OpenSSH, code: int, told: str) -> VmctlError:
    if "No space left on device" in told or "Disk quota exceeded" in told:
        return Conflict("The VM's disk is full.", hint="See what fills it: vmctl exec df -h")
    unread = re.search(r'"([^"]*)"\)?(?: failed)?: Permission denied \(13\)', told)
    if code == 23 and unread and "[sender]" in told:
        return InvalidInput(
            f"{printable(unread.group(1))} cannot be read on this computer.",
            hint="Make it readable, or leave it out: [push] exclude in vmctl.toml",
        )
    gone = re.search(r'"([^"]*)"(?: failed)?: No such file or directory \(2\)', told)
    vanished = re.search(r'file has vanished: "([^"]*)"', told)
    if code in (23, 24) and (gone or vanished):
        name = printable((vanished or gone).group(1))  # type: ignore[union-attr]
        return Conflict(f"{name} went away while it was being pushed.", hint="vmctl push")
    if "command not found" in told or code == 127:
        return Conflict("rsync is not installed on the VM.", hint="Set the VM up: vmctl up")
    if code in (10, 12, 30, 35, 255) and (code != 12 or is_ssh_failure(told.encode())):
        return ssh_failure(
            "\n".join(line for line in told.splitlines() if not line.startswith("rsync")),
            ssh.target,
        )
    return VmctlError(f"rsync failed (code {code}): {last_lines(told, 2)}", hint="vmctl push")


@cache
def _rsync() -> str:
    import shutil

    found = shutil.which("rsync")
    if found is None:
        raise NotFound(
            "rsync is not installed on this computer.", hint="sudo apt-get install rsync"
        )
    return found


@cache
def _speaks_info() -> bool:
    """rsync 3.1 and later tell progress for the whole; openrsync (macOS) does not."""
    told = subprocess.run([_rsync(), "--version"], capture_output=True, text=True).stdout
    version = re.search(r"rsync\s+version\s+v?(\d+)\.(\d+)", told)
    if "openrsync" in told or version is None:
        return False
    return (int(version.group(1)), int(version.group(2))) >= (3, 1)


# -- fetch -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Want:
    """One file of the VM and where it belongs here; its size and times as the VM listed them."""

    remote: str
    local: Path
    size: int
    mtime_ns: int
    mode: int

    @property
    def part(self) -> Path:
        """Where its bytes gather until they are proven whole."""
        return self.local.with_name(f".{self.local.name}{PART_SUFFIX}")


@dataclass(frozen=True, slots=True)
class Arrived:
    """One file that is here now, whole: its SHA-256 was the same on both sides."""

    want: Want
    bytes: int
    resumed_at: int
    sha256: str
    replaced: bool


def fetch_files(
    ssh: OpenSSH, wants: Sequence[Want], *, changing_ok: bool = False
) -> Generator[int | Arrived, None, None]:
    """Bring files here; yields bytes as they come and each file that has arrived.

    What an earlier, cut fetch left is kept where its checksum agrees. A file appears under its
    name only when its SHA-256 is proven and its bytes are on the disk.
    """
    if not wants:
        return
    sums: dict[int, Any] = {}
    request = []
    for number, want in enumerate(wants):
        offset, digest = _kept(want)
        sums[number] = digest
        expected = digest.hexdigest() if offset else ""
        request.append({"path": want.remote, "offset": offset, "prefix_sha256": expected})
    # the request is big for big folders: written before anything is read back
    process = guest.stream(ssh, "send", {"files": request})
    assert process.stdout is not None
    try:
        for number, want in enumerate(wants):
            asked = int(str(request[number]["offset"]))
            yield from _receive(ssh, process, want, sums.pop(number), asked, changing_ok)
    finally:
        end_process(process)


def _kept(want: Want) -> tuple[int, Any]:
    """How many bytes are here from before, and their running sum."""
    digest = hashlib.sha256()
    try:
        descriptor = os.open(want.part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0, digest
    with os.fdopen(descriptor, "rb") as file:
        offset = 0
        while data := file.read(CHUNK_BYTES):
            digest.update(data)
            offset += len(data)
    return (offset, digest) if offset <= want.size else (0, hashlib.sha256())


def _receive(
    ssh: OpenSSH,
    process: subprocess.Popen[bytes],
    want: Want,
    digest: Any,
    asked: int,
    changing_ok: bool,
) -> Generator[int | Arrived, None, None]:
    stream: IO[bytes] = process.stdout  # type: ignore[assignment]
    header = _record(ssh, process, stream)
    offset, left = int(header["offset"]), int(header["bytes"])
    if offset not in (0, asked) or left < 0:
        raise NotProvenWhole(f"The VM sent another part of {want.local.name} than was asked for.")
    if offset == 0:
        digest = hashlib.sha256()
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(want.part, flags, 0o600), "r+b") as file:
        _lock(file, want)
        if file.seek(0, os.SEEK_END) < offset:
            raise Conflict(f"Another command took {want.part} away.", hint="vmctl fetch")
        file.seek(offset)
        file.truncate()
        total = offset + left
        try:
            if offset:
                yield offset
            while left:
                data = stream.read1(min(CHUNK_BYTES, left))  # type: ignore[attr-defined]
                if not data:
                    _cut(ssh, process)
                file.write(data)
                digest.update(data)
                left -= len(data)
                yield len(data)
            file.flush()
        except OSError:  # this computer's disk is full: the bytes would only keep it so
            want.part.unlink(missing_ok=True)
            raise
        trailer = _record(ssh, process, stream)
        sha256 = digest.hexdigest()
        _prove(want, trailer, sha256, changing_ok)
        os.fchmod(file.fileno(), want.mode)
        os.fsync(file.fileno())
        os.utime(want.part, ns=(want.mtime_ns, want.mtime_ns))
        replaced = want.local.exists() or want.local.is_symlink()
        try:
            want.part.replace(want.local)
        except IsADirectoryError as error:
            raise Conflict(f"{want.local} is a folder here.", hint="Use --to DIR.") from error
    _sync_folder(want.local.parent)
    yield Arrived(want, total, offset, sha256, replaced)


def _prove(want: Want, trailer: dict[str, Any], sha256: str, changing_ok: bool) -> None:
    name = printable(want.local.name)
    if trailer.get("sha256") != sha256:
        want.part.unlink(missing_ok=True)
        raise NotProvenWhole(
            f"What arrived of {name} is not what the VM sent: its SHA-256 differs.",
            hint="Nothing of it was kept; run the same command again.",
        )
    if trailer.get("changed") and not changing_ok:
        want.part.unlink(missing_ok=True)
        raise Conflict(
            f"{name} was changed on the VM while it was being fetched.",
            hint="Wait until it is done (vmctl ps), or take it as it is: vmctl fetch --force",
        )


def _lock(file: IO[bytes], want: Want) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Conflict(
            f"Another command is fetching {want.local.name} here.", hint="Wait until it is done."
        ) from error


def _record(ssh: OpenSSH, process: subprocess.Popen[bytes], stream: IO[bytes]) -> dict[str, Any]:
    line = stream.readline(LINE_LIMIT)
    if not line.endswith(b"\n"):
        _cut(ssh, process)
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise NotProvenWhole("The VM's answer is not what the helper there writes.")
    return found


def _cut(ssh: OpenSSH, process: subprocess.Popen[bytes]) -> NoReturn:
    assert process.stderr is not None
    told = process.stderr.read()
    raise guest.ended(ssh, process.wait(), told)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Leave no ssh or rsync behind, however the transfer ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:
                pass
