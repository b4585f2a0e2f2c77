"""The guard in front of every push, pull and init: a folder that nobody means to hand over."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vmctl.domain.errors import InvalidInput
from vmctl.domain.settings.project_root import reason_against
from vmctl.folders import data_dir


def refuse_unfit_root(root: Path, file: Path | None = None) -> None:
    """Raise InvalidInput for a home folder, one above it, the system's, and where keys are kept.

    `file` holds the settings that make it the project's folder, if any do.
    """
    place, own = (PurePosixPath(folder.resolve()) for folder in (root, data_dir()))
    why = reason_against(place, _homes(), own)
    if why is None:
        return
    hint = "Change to your project's folder: cd …"
    if file is not None and file.parent != Path.cwd():
        hint = (
            f"It is the project folder because of {file}: move that file, or start here: vmctl init"
        )
    raise InvalidInput(f"{root} {why}: all of it would be pushed.", hint=hint)


def _homes() -> Iterator[PurePosixPath]:
    """The user's home as the environment and the system have it, and under sudo the caller's."""
    places = [os.environ.get("HOME", "")]
    for number in (os.getuid(), os.environ.get("SUDO_UID", "")):
        with contextlib.suppress(KeyError, ValueError, OverflowError):
            places.append(pwd.getpwuid(int(number)).pw_dir)
    for place in places:
        # without a home of its own a user has "/" or a folder that is not there
        if place not in ("", "/"):
            yield PurePosixPath(Path(place).resolve())
