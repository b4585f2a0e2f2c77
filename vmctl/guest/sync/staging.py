"""Where the bytes of a push gather until all of them are here and proven by their SHA-256.

A file is named by its SHA-256, so a push that was cut finds what arrived of it; what this very
push has not seen whole is computed again before it is believed. The folder is on the workspace's
file system: a rename puts a file in its place.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..paths import HOME, ensure
from ..protocol import PLACED_FOLDER, STAGING, STAGING_NEAR, GuestError
from .record import sha256_of

TYPE_CHECKING = False  # see record.py
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO, Any

    from ..messages import PlacedFolders

CHUNK_BYTES = 1 << 20
FOLLOW_S = 0.005


class Staging:
    """The contents that have arrived for one project."""

    def __init__(self, project: str, root: Path) -> None:
        self.folder = self._near = HOME / STAGING.format(project=project)
        ensure(self.folder.parent)
        existing = next(place for place in (root, *root.parents) if place.exists())
        if existing.stat().st_dev != self.folder.parent.stat().st_dev:
            self.folder = root / STAGING_NEAR
        self._prefix = f"{self.folder}/"
        self._made = False
        self.whole: set[str] = set()  # proven by this very push
        self._now: tuple[str, IO[bytes], Any] | None = None  # sha256, file, digest

    def remove(self) -> None:
        """Nothing of it is left."""
        self._close()
        for folder in {self.folder, self._near}:
            if folder.exists():
                import shutil

                shutil.rmtree(folder, ignore_errors=True)
        self._made = False
        self.whole.clear()

    def path(self, sha256: str) -> str:
        """Where a content lies."""
        return f"{self._prefix}{sha256}"

    def held_bytes(self, sha256: str, size: int) -> int:
        """How many bytes of a content are here; all of them only when they are proven."""
        if sha256 in self.whole:
            return size
        if self._now and self._now[0] == sha256:
            return self._now[1].tell()
        place = self.path(sha256)
        try:
            found = os.lstat(place).st_size
        except FileNotFoundError:
            return 0
        if found < size:
            return found
        if found == size and self._prove(sha256, place):
            return size
        Path(place).unlink()
        return 0

    def add(self, sha256: str, size: int, offset: int, data: memoryview) -> None:
        """The next bytes of a content; what is here already is passed over."""
        if sha256 in self.whole:
            return
        if self._now is None or self._now[0] != sha256:
            self._close()
            self._now = self._open(sha256)
            if self._now[1].tell() >= size and self._now[2].hexdigest() != sha256:
                self._close()  # what an earlier push left is not what it should be
                Path(self.path(sha256)).unlink()
                self._now = self._open(sha256)
        file, digest = self._now[1:]
        have = file.tell()
        if offset > have:
            raise GuestError(
                "failed", f"Bytes {have} to {offset} of a file are missing", "vmctl push"
            )
        data = data[have - offset :]
        digest.update(data)
        while data:
            data = data[file.write(data) :]
        if file.tell() >= size:
            self._close()
            if digest.hexdigest() == sha256:
                self.whole.add(sha256)
            else:
                Path(self.path(sha256)).unlink()

    def adopt(self, sha256: str, size: int, name: str, known_sha256: str = "") -> bool:
        """Take a file that another program placed, if it is what it should be.

        `known_sha256` is its SHA-256 as computed while it was being written; "" when it was not.
        """
        place = self.folder / PLACED_FOLDER / name
        try:
            if place.lstat().st_size != size:
                return False
            if known_sha256 != sha256:
                return self._prove(sha256, str(place))
            place.replace(self.path(sha256))
        except OSError:
            return False
        self.whole.add(sha256)
        return True

    def copy(self, sha256: str, source: str) -> bool:
        """Take a content that is in the workspace under another name."""
        self._prepare()
        import shutil

        shutil.copyfile(source, self.path(sha256), follow_symlinks=False)
        return self._prove(sha256, self.path(sha256))

    def free_bytes(self) -> int:
        """Bytes that may still be written on this disk."""
        self._prepare()
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def has_placed(self, name: str) -> bool:
        """Whether another program has placed a part of a file."""
        return os.path.lexists(f"{self._prefix}{PLACED_FOLDER}/{name}")

    def placed(self, root: Path, older: Iterable[str]) -> PlacedFolders:
        """Where other programs put files, and where they find older versions of them.

        `folder` is below the home folder or absolute, `older` are relative to it. What a cut
        transfer left of a file is the beginning of its next older version.
        """
        placed, halves = ensure(self.folder / PLACED_FOLDER), self.folder / "halves"
        for path in older:
            _complete(placed / path, root / path, halves / path)
        near = placed.is_relative_to(HOME)
        real = os.path.realpath(placed)
        return {
            "folder": str(placed.relative_to(HOME)) if near else str(placed),
            "older": [os.path.relpath(os.path.realpath(place), real) for place in (halves, root)],
        }

    def temporary(self, number: int) -> str:
        """A name for what is built here just before it is put in its place."""
        self._prepare()
        return f"{self._prefix}new-{number}"

    def _prepare(self) -> None:
        if not self._made:
            ensure(self.folder)
            self._made = True

    def _open(self, sha256: str) -> tuple[str, IO[bytes], Any]:
        import hashlib

        self._prepare()
        digest = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        file = os.fdopen(os.open(self.path(sha256), flags, 0o600), "r+b", buffering=0)
        while data := file.read(CHUNK_BYTES):
            digest.update(data)
        return sha256, file, digest

    def _close(self) -> None:
        if self._now is not None:
            self._now[1].close()
            self._now = None

    def _prove(self, sha256: str, place: str) -> bool:
        if sha256_of(place) != sha256:
            return False
        if place != self.path(sha256):
            Path(place).replace(self.path(sha256))
        self.whole.add(sha256)
        return True


class RunningHash:
    """Computes the SHA-256 of files that rsync is writing, from their beginnings on.

    It writes each file once, from its beginning to its end: what was read stays so. Where it
    does not, the sum is another one than what is expected, and the whole file is read again.
    """

    def __init__(self, staging: Staging, coming: list[tuple[str, int, str]]) -> None:
        import threading

        self._places = {
            name: (staging.folder / PLACED_FOLDER / name, size) for _, size, name in coming
        }
        self._sums: dict[str, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def sums(self) -> dict[str, str]:
        """The sums by path, once everything is written."""
        self._over.set()
        self._thread.join()
        return self._sums

    def _work(self) -> None:
        import hashlib

        for name, (place, size) in self._places.items():
            digest, have = hashlib.sha256(), 0
            while not place.exists():
                if self._over.wait(FOLLOW_S):
                    return
            with place.open("rb", buffering=0) as file:
                while have < size:
                    data = file.read(CHUNK_BYTES)
                    have += len(data)
                    digest.update(data)
                    if not data and self._over.is_set():
                        return
                    if not data:
                        self._over.wait(FOLLOW_S)
            self._sums[name] = digest.hexdigest()


def _complete(half: Path, old: Path, whole: Path) -> None:
    """The beginning that came, and the rest as an earlier cut left it, or as it was."""
    try:
        size = half.lstat().st_size
    except FileNotFoundError:
        return
    import shutil

    before = whole if whole.exists() else old
    half.chmod(0o600)  # rsync gave it the mode of its original, which may be read-only
    with contextlib.suppress(FileNotFoundError), before.open("rb") as rest, half.open("ab") as file:
        rest.seek(size)
        shutil.copyfileobj(rest, file, CHUNK_BYTES)
    whole.parent.mkdir(parents=True, exist_ok=True)
    half.replace(whole)
