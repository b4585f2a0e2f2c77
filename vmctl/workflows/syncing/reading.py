"""The project folder, read in a thread of its own while the connection is on its way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

from vmctl.config import Project
from vmctl.domain.manifest import Entry, tree_id
from vmctl.workflows.syncing.manifest import Base, Hashes
from vmctl.workflows.syncing.selection import LocalEntry, Selection, select


class Reading:
    """What is selected, its tree, and the tree that this VM had after our last push."""

    def __init__(self, project: Project, key: str) -> None:
        self.root: Path = project.root
        self.key = key
        self.selection: Selection
        self.base: Base
        self.unread: list[LocalEntry]  # files whose SHA-256 is not known from before
        self.tree: dict[str, Entry]
        self.id: str
        self._exclude = project.exclude
        self._hashes: Hashes
        self._error: BaseException | None = None
        self._is_selected = threading.Event()
        self._fresh: SimpleQueue[tuple[LocalEntry, str] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_selected(self) -> None:
        """Until it is known what there is, by name, size and time; raises what stood in the way."""
        self._is_selected.wait()
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Until it is known what every file holds; raises what stood in the way."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def fresh(self) -> Iterator[tuple[LocalEntry, str]]:
        """Each file that has to be read, with its SHA-256, as soon as it is known; once."""
        while (found := self._fresh.get()) is not None:
            yield found
        self._fresh.put(None)  # for who asks again, when a push begins anew

    def save(self) -> None:
        """Keep what was computed."""
        self._hashes.save()

    def _read(self) -> None:
        try:
            self.base = Base(self.key)
            self.selection = select(self.root, self._exclude, pushed=lambda: self.base.files)
            self._hashes = Hashes(self.root)
            self.unread = self._hashes.unread(self.selection.entries)
            self._is_selected.set()
            self.tree = self._hashes.tree(
                self.root, self.selection.entries, lambda *found: self._fresh.put(found)
            )
            self.id = tree_id(self.tree)
        except BaseException as error:
            self._error = error
        finally:
            self._fresh.put(None)
            self._is_selected.set()
