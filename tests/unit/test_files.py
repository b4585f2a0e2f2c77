"""Files that are replaced as a whole, and locks."""

from __future__ import annotations

import re
import stat
import threading
from pathlib import Path

import pytest

from vmctl.files import FileLock, atomic_write, is_locked

PACKAGE = Path(__file__).resolve().parents[2] / "vmctl"


def test_a_file_is_replaced_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_text("old")
    atomic_write(file, "new", mode=0o640, durable=True)
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_file_and_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        atomic_write(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getpid", lambda: 1)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / f".file.1.{threading.get_ident()}").symlink_to(victim)
    atomic_write(tmp_path / "file", "new")
    assert victim.read_text() == "untouched"
    assert (tmp_path / "file").read_text() == "new"


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert not is_locked(first.path)
    assert first.acquire()
    with first:  # held already: not waited for
        assert is_locked(first.path)
        assert not second.acquire()
    with second:
        assert is_locked(first.path)
    assert not is_locked(first.path)


def test_locks_are_taken_in_one_module() -> None:
    """On the laptop; a part file of a download is locked by its descriptor."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in {"guest", "emulator"}
        and "flock(" in path.read_text(encoding="utf-8")
    }
    assert found == {"files.py", "ssh/transfer/destination.py"}
