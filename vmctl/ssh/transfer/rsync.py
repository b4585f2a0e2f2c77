"""Bring contents of a push to the VM by rsync or scp: into the staging folder, under their paths.

The VM proves them by SHA-256 and puts them in place, as it does with what our own stream brings.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Sequence
from functools import cache
from pathlib import Path

from vmctl.domain.errors import Conflict, InvalidInput, NotFound, VmctlError
from vmctl.domain.login.ssh_target import rsync_word
from vmctl.domain.sync.rsync_output import RsyncStats, rsync_progress, rsync_stats
from vmctl.domain.text import DISK_FULL_HINT, last_lines, one_line
from vmctl.guest.protocol import BEGIN
from vmctl.ssh.processes import end_process
from vmctl.ssh.remote_output import Tail
from vmctl.ssh.session.openssh import OpenSSH, is_ssh_failure

# ssh, and of its output what comes after BEGIN; `read` takes not a byte more than a line
QUIET = f"""
"$@" | while IFS= read -r line; do
    case $line in *{BEGIN.decode()}) exec cat ;; esac
done
"""
KEPT_LINES = 200  # of what rsync says: its numbers come last
LINE_BYTES = 1 << 16


class Rsync:
    """One rsync that copies files below `root` to a folder of the VM.

    `folder` is below the VM's home, or absolute; it is made when missing. Where a file lies below
    one of the `older` folders (relative to `folder`), only the difference to it travels. Without
    `is_shown` nobody looks at its progress, and rsync is not asked whether it tells it.
    """

    def __init__(
        self,
        ssh: OpenSSH,
        root: Path,
        paths: Sequence[str],
        folder: str,
        older: Sequence[str] = (),
        *,
        is_shown: bool = True,
    ) -> None:
        self._ssh = ssh
        argv = [_rsync(), "-tzI", "--inplace", "--from0", "--files-from=-", "--stats"]
        argv += [f"--copy-dest={place}" for place in older]
        if is_shown and _speaks_info():
            argv += ["--info=progress2", "--no-human-readable"]
        program = f"cd && mkdir -p {shlex.quote(folder)} && rsync"
        words = ["ssh", "-F", str(ssh.config_file)]
        if ssh.is_noisy:  # rsync itself takes a start file's words for its own
            words = ["sh", "-c", QUIET, *words[:1], *words]
            program = f"echo {BEGIN.decode()} && {program}"
        argv += ["-e", " ".join(map(rsync_word, words)), f"--rsync-path={program}"]
        argv += ["./", f"{ssh.target.alias}:{folder}/"]
        with tempfile.TemporaryFile() as names:
            # rsync takes a name that begins with "#" or ";" for a remark
            names.write(b"".join(b"./" + os.fsencode(path) + b"\0" for path in paths))
            names.seek(0)
            self._process = subprocess.Popen(
                argv,
                cwd=root,
                stdin=names,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        assert self._process.stderr is not None
        self._errors = Tail(self._process.stderr)

    def progress(self) -> Generator[int, None, RsyncStats]:
        """Yields bytes done until it is done; raises one clear error where it failed."""
        output = yield from _progress(self._process)
        code = self._process.wait()
        if code != 0:
            raise _rsync_failure(self._ssh, code, self._errors.text())
        return rsync_stats(output)

    def close(self) -> None:
        """Leave nothing of it behind."""
        end_process(self._process)


class SpeculativeRsync:
    """An rsync that runs before the VM has asked for the files; it may fail harmlessly."""

    def __init__(
        self, ssh: OpenSSH, root: Path, paths: Sequence[str], folder: str, older: Sequence[str]
    ) -> None:
        self.paths = tuple(paths)
        self.stats: RsyncStats | None = None
        self._rsync = Rsync(ssh, root, paths, folder, older, is_shown=False)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def wait(self) -> RsyncStats | None:
        """What it did, or None where it failed: then the files go as the VM asks for them."""
        self._thread.join()
        return self.stats

    def close(self) -> None:
        """End it."""
        self._rsync.close()
        self._thread.join()

    def _work(self) -> None:
        progress = self._rsync.progress()
        try:
            while True:
                next(progress)
        except StopIteration as end:
            self.stats = end.value
        except (VmctlError, OSError, ValueError):  # ValueError: closed while it was read
            pass


def by_scp(ssh: OpenSSH, root: Path, paths: Sequence[str], folder: str) -> None:
    """Copy files below `root` to a folder of the VM with `scp -r`: slow, many small answers."""
    program = shutil.which("scp")
    if program is None:
        raise NotFound(
            "scp is not installed on this computer.", hint="sudo apt-get install openssh-client"
        )
    with tempfile.TemporaryDirectory() as made:
        tree = Path(made, "tree")
        for path in paths:  # scp follows links, so links are all it takes
            link = tree / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(root / path)
        words = [program, "-q", "-r", "-F", str(ssh.config_file)]
        names = sorted(item.name for item in tree.iterdir())
        process = subprocess.Popen(
            [*words, *(f"./{name}" for name in names), f"{ssh.target.alias}:{folder}/"],
            cwd=tree,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stderr is not None
        errors = Tail(process.stderr)
        try:
            code = process.wait()
            output = errors.text()
        finally:
            end_process(process)
    if code == 0:
        return
    if "No space left" in output or ("write remote" in output and "Failure" in output):
        raise _disk_full()
    if "message too long" in output:  # a server's answers begin with what a shell prints
        raise Conflict(
            "A start file of the login shell on the VM prints something, and scp takes that for an "
            "answer.",
            hint="Without scp it does not matter: vmctl push",
        )
    if is_ssh_failure(output.encode()):
        raise ssh.target.failure(output)
    raise VmctlError(f"scp failed (code {code}): {last_lines(output, 2)}", hint="vmctl push")


def _progress(process: subprocess.Popen[bytes]) -> Generator[int, None, str]:
    """Yields the bytes done; returns the rest of the output."""
    assert process.stdout is not None
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    rest = b""
    while data := os.read(process.stdout.fileno(), 1 << 16):
        *lines, rest = re.split(rb"[\r\n]", rest[-LINE_BYTES:] + data)
        for line in lines:
            text = line.decode("utf-8", "replace")
            done = rsync_progress(text)
            if done is None:
                kept.append(text)
            else:
                yield done
    return "\n".join([*kept, rest.decode("utf-8", "replace")])


def _rsync_failure(ssh: OpenSSH, code: int, output: str) -> VmctlError:
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return _disk_full()
    unread = re.search(r'"([^"]*)"\)?(?: failed)?: Permission denied \(13\)', output)
    if code == 23 and unread and "[sender]" in output:
        return InvalidInput(
            f"{one_line(unread.group(1))} cannot be read on this computer.",
            hint="Make it readable, or exclude it: [push] exclude in vmctl.toml",
        )
    missing = re.search(r'"([^"]*)"(?: failed)?: No such file or directory \(2\)', output)
    vanished = re.search(r'file has vanished: "([^"]*)"', output)
    if code in (23, 24) and (missing or vanished):
        name = one_line((vanished or missing).group(1))  # type: ignore[union-attr]
        return Conflict(f"{name} disappeared while it was being pushed.", hint="vmctl push")
    if "command not found" in output or code == 127:
        return Conflict("rsync is not installed on the VM.", hint="Set the VM up: vmctl up")
    if code in (10, 12, 30, 35, 255) and (code != 12 or is_ssh_failure(output.encode())):
        return ssh.target.failure(
            "\n".join(line for line in output.splitlines() if not line.startswith("rsync"))
        )
    return VmctlError(f"rsync failed (code {code}): {last_lines(output, 2)}", hint="vmctl push")


def _disk_full() -> Conflict:
    return Conflict("The VM's disk is full.", hint=DISK_FULL_HINT)


@cache
def _rsync() -> str:
    found = shutil.which("rsync")
    if found is None:
        raise NotFound(
            "rsync is not installed on this computer.", hint="sudo apt-get install rsync"
        )
    return found


@cache
def _speaks_info() -> bool:
    """rsync 3.1 and later tell progress for the whole; openrsync (macOS) does not."""
    output = subprocess.run([_rsync(), "--version"], capture_output=True, text=True).stdout
    version = re.search(r"rsync\s+version\s+v?(\d+)\.(\d+)", output)
    if "openrsync" in output or version is None:
        return False
    return (int(version.group(1)), int(version.group(2))) >= (3, 1)
