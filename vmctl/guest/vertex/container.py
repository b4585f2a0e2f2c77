"""A job in a container of Vertex AI: unpack the archive, prepare, run, keep log, outputs and code.

Sent as it stands to `python3 -c`, with the job as JSON: it imports the standard library only. The
bucket is mounted; an object appears there when its file is closed, so the log goes out in parts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

TYPE_CHECKING = False  # nothing but what runs is sent to be read
if TYPE_CHECKING:
    from typing import Any

PART_S = 1.0  # a part of the log is closed after this long …
PART_BYTES = 1 << 20  # … or when it holds so much
NOT_PREPARED = 120  # the code of a job whose set-up failed


class Log:
    """What the job writes: to this container's own output, and to numbered parts in the bucket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held = b""
        self._since = 0.0
        self._number = 0
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, data: bytes) -> None:
        """Take some bytes."""
        os.write(1, data)
        if not self._held:
            self._since = time.monotonic()
        self._held += data
        self.flush(len(self._held) >= PART_BYTES)

    def flush(self, now: bool = True) -> None:
        """Close the part that is due; any that holds something with `now`."""
        if not self._held or not (now or time.monotonic() - self._since >= PART_S):
            return
        self._number += 1
        (self._folder / f"{self._number:06}").write_bytes(self._held)
        self._held = b""

    def say(self, text: str) -> None:
        """A line of this program's own."""
        self.write((text + "\n").encode())


def run(line: str, folder: Path, log: Log) -> int:
    """Run a shell's line in a folder and return its exit code; what it writes goes to the log."""
    process = subprocess.Popen(
        ["bash", "-c", line],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        assert process.stdout is not None
        source = process.stdout.fileno()
        os.set_blocking(source, False)
        while True:
            try:
                data = os.read(source, 1 << 16)
            except BlockingIOError:
                log.flush(False)
                time.sleep(0.05)
                if process.poll() is None:
                    continue
                with contextlib.suppress(BlockingIOError):
                    log.write(os.read(source, 1 << 16))  # a child of its own may hold the pipe
                break
            if not data:
                break
            log.write(data)
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        log.flush()
    return 128 - code if code < 0 else code


def install(job: dict[str, Any], root: Path, log: Log) -> int:
    """Install what the job needs with pip; its exit code."""
    wanted = list(job["requirements"])
    if job["package"]:
        wanted.append("./" + job["package"])
    if not wanted:
        return 0
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", *wanted]
    return run(shlex.join(pip), root, log)


def keep(job: dict[str, Any], folder: Path) -> None:
    """Copy the job's outputs into the bucket, below their paths in the project."""
    for pattern in job["outputs"]:
        for found in folder.glob(pattern):
            for file in [found, *found.rglob("*")]:
                if file.is_file():
                    there = Path(job["out"], "outputs", file.relative_to(folder))
                    there.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, there)


def work(job: dict[str, Any], log: Log) -> int:
    """Unpack, prepare and run; the job's exit code."""
    root = Path(tempfile.mkdtemp(prefix="vmctl-"))
    with tarfile.open(job["archive"]) as archive:
        archive.extractall(root)  # ours, and named by its content
    folder = root / job["directory"]
    if shutil.which("python") is None:
        shims = tempfile.mkdtemp(prefix="vmctl-bin-")
        Path(shims, "python").symlink_to(sys.executable)
        os.environ["PATH"] = shims + os.pathsep + os.environ.get("PATH", os.defpath)
    for line in job["setup"]:
        code = run(line, folder, log)
        if code:
            log.say(f"vmctl: the set-up step failed with exit code {code}: {line}")
            return NOT_PREPARED
    if install(job, root, log):
        log.say("vmctl: pip could not install what the job needs; see above")
        return NOT_PREPARED
    words = " ".join([job["command"], *map(shlex.quote, job["args"])])
    code = run(words, folder, log)
    keep(job, folder)
    return code


def main(argv: list[str]) -> int:
    """Run the job that the last argument describes."""
    job = json.loads(argv[-1])
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    out = Path(job["out"])
    log = Log(out / "log")
    code = 1
    try:
        code = work(job, log)
    except Exception as error:
        log.say(f"vmctl: {type(error).__name__}: {error}")
    finally:
        log.flush()
        (out / "exit.json").write_text(json.dumps({"code": code, "ended_at": time.time()}))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
