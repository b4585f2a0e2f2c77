"""The project folder, read in a thread of its own while the connection is being made."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

from vmctl.config import Project
from vmctl.domain.sync.secret_detection import (
    HEAD_BYTES,
    is_secret_head,
    is_secret_path,
    may_begin_like_one,
)
from vmctl.domain.sync.tree import TreeEntry
from vmctl.guest.protocol import tree_id
from vmctl.workflows.base.agreements import unagreed_files
from vmctl.workflows.sync.hash_cache import Hashes, LastPushedTree
from vmctl.workflows.sync.selection import LocalEntry, Selection, select


class SecretsFound(Exception):
    """There are files that look like secrets, and nobody has agreed that they go to the VM."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__(*paths)
        self.paths = paths


class Scan:
    """What is selected, its tree, and the tree that this VM had after our last push."""

    def __init__(self, project: Project, key: str, *, may_send: bool = True) -> None:
        """With `may_send` it ends with SecretsFound where something looks like a secret."""
        self.root: Path = project.root
        self.name = project.name
        self.key = key
        self.selection: Selection
        self.base: LastPushedTree
        self.unhashed: list[LocalEntry]  # files whose SHA-256 is not known from before
        self.tree: dict[str, TreeEntry]
        self.id: str
        self.unagreed: list[str] = []  # what looks like a secret, and has never been sent
        self._exclude = project.exclude
        self._may_send = may_send
        self._hashes: Hashes
        self._error: BaseException | None = None
        self._is_listed = threading.Event()
        self._new_files: SimpleQueue[tuple[LocalEntry, str] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_listed(self) -> None:
        """Wait until names, sizes and times are known; raises the error of the scan."""
        self._is_listed.wait()
        if self._error is not None:
            raise self._error

    def wait_hashed(self) -> None:
        """Wait until every file has been hashed; raises the error of the scan."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def new_files(self) -> Iterator[tuple[LocalEntry, str]]:
        """Each file that has to be read, with its SHA-256, as soon as it is known; once."""
        while (found := self._new_files.get()) is not None:
            yield found
        self._new_files.put(None)  # for a push that starts again

    def save(self) -> None:
        """Keep what was computed, but of what is still to be asked about."""
        self._hashes.save(self.unagreed)

    def _read(self) -> None:
        try:
            self.base = LastPushedTree(self.key)
            self.selection = select(self.root, self._exclude, pushed=lambda: self.base.files)
            self._hashes = Hashes(self.root)
            self.unhashed = self._hashes.unhashed(self.selection.entries)
            self.unagreed = secrets_in(self.root, self.selection, self.unhashed, self.base)
            if self.unagreed and self._may_send:
                raise SecretsFound(self.unagreed)  # nothing of what is here has left it
            self._is_listed.set()
            self.tree = self._hashes.tree(
                self.root, self.selection.entries, lambda *found: self._new_files.put(found)
            )
            self.id = tree_id(self.tree)
        except BaseException as error:
            self._error = error
        finally:
            self._new_files.put(None)
            self._is_listed.set()


def secrets_to_send(project: Project, key: str) -> list[str]:
    """What a push would ask about."""
    base = LastPushedTree(key)
    selection = select(project.root, project.exclude, pushed=lambda: base.files)
    unhashed = Hashes(project.root).unhashed(selection.entries)
    return secrets_in(project.root, selection, unhashed, base)


def secrets_in(
    root: Path, selection: Selection, unhashed: Sequence[LocalEntry], base: LastPushedTree
) -> list[str]:
    """Files that look like secrets, less what was agreed to or an earlier push has sent."""
    sent = base.files
    found = {
        entry.path
        for entry in selection.entries
        if entry.kind == "file" and is_secret_path(entry.path) and entry.path not in sent
    }
    found |= {
        entry.path
        for entry in unhashed  # what was read before was looked at then
        if may_begin_like_one(entry.path, entry.size) and is_secret_head(head_of(root, entry.path))
    }
    return unagreed_files(root, sorted(found))


def head_of(root: Path, path: str) -> bytes:
    """How a file begins; nothing where it cannot be read, which is reported when it is sent."""
    try:
        descriptor = os.open(f"{root}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(descriptor, HEAD_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
