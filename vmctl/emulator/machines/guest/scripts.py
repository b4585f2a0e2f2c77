"""startup-script and shutdown-script of the metadata, run as root of the machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .processes import Job, Processes

TYPE_CHECKING = False  # typing is not imported: every boot of a machine pays for it
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class Scripts:
    """Runs a metadata script with its output, line by line, on the serial port."""

    def __init__(
        self,
        processes: Processes,
        say: Callable[[str], None],
        sudo: str,
        env: Mapping[str, str],
        cwd: str,
    ) -> None:
        self._processes = processes
        self._say = say
        self._sudo = sudo
        self._env = env
        self._cwd = cwd

    def run(self, kind: str, tree: dict[str, Any], timeout_s: float | None = None) -> None:
        """Runs the script of `kind`, `startup` or `shutdown`, for timeout_s at most."""
        key = f"{kind}-script"
        text = ((tree.get("instance") or {}).get("attributes") or {}).get(key)
        say = self._say
        if not text:
            say(f"google_metadata_script_runner: No {kind} scripts to run.")
            return
        say(f"google_metadata_script_runner: Starting {kind} scripts.")
        say(f"google_metadata_script_runner: Found {key} in metadata.")
        folder = Path("/tmp") / f"metadata-scripts-{os.urandom(8).hex()}"
        folder.mkdir(mode=0o755)  # an error if it exists already
        try:
            job = self._run(folder, key, str(text), timeout_s)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if job.done.is_set():
            say(f"google_metadata_script_runner: {key} exit status {job.returncode}")
        else:
            say(f"google_metadata_script_runner: {key} still running after {timeout_s:.0f} s")
        say(f"google_metadata_script_runner: Finished running {kind} scripts.")

    def _run(self, folder: Path, key: str, text: str, timeout_s: float | None) -> Job:
        script = folder / key
        script.write_text(text)
        script.chmod(0o755)
        with (folder / "output").open("w+b") as output:
            # A file, not a pipe: a background child must not delay the script's end.
            job = self._processes.spawn(
                [self._sudo, "/bin/bash", "-c", str(script)],
                stdout=output,
                stderr=output,
                env=self._env,
                cwd=self._cwd,
            )
            position, waited = 0, 0.0
            while True:
                ended = job.done.wait(0.1)
                waited += 0.1
                position = self._copy(key, Path(output.name), position, last=ended)
                if ended or (timeout_s is not None and waited >= timeout_s):
                    return job

    def _copy(self, key: str, file: Path, position: int, last: bool) -> int:
        with file.open("rb") as stream:
            stream.seek(position)
            data = stream.read()
        end = len(data) if last else data.rfind(b"\n") + 1
        for line in data[:end].decode("utf-8", "replace").splitlines():
            self._say(f"google_metadata_script_runner: {key}: {line}")
        return position + end
