"""What every machine boots from, copied by a user who may not read all of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.harness.folders import public_folder
from vmctl.emulator.machines.storage import find_unreadable_caches

SOMEBODY = 54_321  # an ordinary uid that owns nothing here


def test_compiled_files_of_another_user_are_left_out_of_the_seed() -> None:
    folder = public_folder("seed")
    for name, mode in (("a.py", 0), ("__pycache__/a.pyc", 0), ("__pycache__/b.pyc", 0o644)):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
        file.chmod(mode)
    cache = folder / "__pycache__"
    cache.chmod(0o755)
    was = os.geteuid()
    try:
        if was == 0:
            os.seteuid(SOMEBODY)
        assert left_out(folder) == set(), "a program that cannot be read is an error"
        assert left_out(cache) == {"a.pyc"}
        os.seteuid(was)
        cache.chmod(0o700 if was == 0 else 0)
        if was == 0:
            os.seteuid(SOMEBODY)
        assert left_out(folder) == {"__pycache__"}
    finally:
        os.seteuid(was)
        cache.chmod(0o755)
        shutil.rmtree(folder)


def left_out(folder: Path) -> set[str]:
    return find_unreadable_caches(str(folder), [path.name for path in folder.iterdir()])
