"""What git tracks although a rule ignores it: rules are about files that git does not know yet."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

LIMIT_S = 10.0


class Tracked:
    """The question to git, asked while the folder is being read."""

    def __init__(self, root: Path) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        # nothing that the folder's settings name is run
        words = ["git", "-c", "core.fsmonitor=false", "ls-files", "-z", "--cached", "--ignored"]
        with contextlib.suppress(OSError):  # without git nothing is tracked that we could know of
            self._process = subprocess.Popen(
                [*words, "--exclude-standard"],
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            )

    def paths(self) -> list[str]:
        """Paths below the folder; none where git does not answer."""
        if self._process is None:
            return []
        try:
            told = self._process.communicate(timeout=LIMIT_S)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return []
        if self._process.returncode != 0:
            return []
        return [os.fsdecode(name) for name in told.split(b"\0") if name]


def users_excludes(root: Path) -> str | None:
    """What git's core.excludesFile says; None where it is not set, or without git."""
    try:
        told = subprocess.run(
            ["git", "config", "--type=path", "-z", "--get", "core.excludesFile"],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(told.stdout.rstrip(b"\0")) if told.returncode == 0 else None
