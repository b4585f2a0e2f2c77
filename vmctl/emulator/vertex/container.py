"""What a custom job's machine runs: installs its packages, starts it, keeps each line it prints.

Copied into the job's folder, which the machine shares with the emulator. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

TYPE_CHECKING = False  # the machine has no need of it
if TYPE_CHECKING:
    from typing import Any, BinaryIO

LINE_BYTES = 64 << 10
DISKS = "/mnt/disks"


class Container:
    """One job: its specification, its log, and the process that runs now."""

    def __init__(self, folder: Path) -> None:
        self.spec: dict[str, Any] = json.loads((folder / "spec.json").read_text("utf-8"))
        self.log = (folder / "log.jsonl").open("a", buffering=1, encoding="utf-8")
        self.writing = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False
        self.environ = {**os.environ, **self.spec["env"]}

    def say(self, severity: str, text: str) -> None:
        """Write an entry of the log."""
        with self.writing:
            entry = {"time": time.time(), "severity": severity, "text": text}
            self.log.write(json.dumps(entry) + "\n")

    def stop(self, *_: object) -> None:
        """Tell what runs to end, and start nothing more."""
        self.stopped = True
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)

    def run(self, argv: list[str]) -> int:
        """Run a program to its end; each line that it prints is an entry."""
        if self.stopped:
            return 143
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.environ,
                cwd=self.spec["cwd"],
                start_new_session=True,
            )
        except OSError as error:
            self.say("ERROR", f"{argv[0]} cannot be started: {error.strerror}")
            return 127
        streams = (("INFO", self.process.stdout), ("ERROR", self.process.stderr))
        readers = [threading.Thread(target=self._copy, args=pair) for pair in streams]
        for reader in readers:
            reader.start()
        code = self.process.wait()
        for reader in readers:
            reader.join()
        return code if code >= 0 else 128 - code

    def _copy(self, severity: str, stream: BinaryIO) -> None:
        while line := stream.readline(LINE_BYTES):
            self.say(severity, line.decode("utf-8", "replace").rstrip("\r\n"))


def main(folder: Path) -> int:
    """Run the job of a folder; its exit code is left there."""
    container = Container(folder)
    signal.signal(signal.SIGTERM, container.stop)
    Path("/gcs").mkdir(exist_ok=True)
    for bucket, device in container.spec["buckets"].items():
        Path("/gcs", bucket).symlink_to(f"{DISKS}/{device}")
    code = 0
    for argv in container.spec["commands"]:
        code = container.run(argv)
        if code:
            break
    (folder / "exit.new").write_text(str(code), "utf-8")
    (folder / "exit.new").rename(folder / "exit")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
