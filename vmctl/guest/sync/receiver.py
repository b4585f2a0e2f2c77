"""The verb "push": one conversation in turns over standard input and output.

The first line is the request. Then each side speaks in turn. The other side's turn is frames,
each one letter, its length in four bytes and its payload; the frame "." ends the turn:

    M  the whole tree: zlib of JSON, path: ENTRY (see record.py)
    D  what differs from the tree known as `base`, or later from the tree sent before:
       zlib of JSON, {"put": {path: ENTRY}, "gone": [path]}
    Z  contents through one zlib stream that is flushed at each frame's end: chunks, each
       SHA-256 (32 bytes), whole size (8), offset (8), length (4), bytes
    R  one chunk as it is, for what does not compress
    H  contents that rsync is bringing meanwhile: JSON, [[sha256, size, path]]
    P  contents that another program has placed: the same
    ?  asks for our turn's line at once, while contents that will most likely be wanted go on coming

Our turn is one line of JSON: {"ask": "tree"}, {"want": …}, {"conflicts": [[path, why]]},
{"plan": …} after a dry run or {"done": …}. Files are named by their number in the sorted tree,
as ranges: thousands of names would cost round trips. Until everything is staged and proven
nothing in the workspace is touched; whatever ends a push before that leaves the staged bytes to
the next one. Between our lines empty ones may come: they only say that this end is at work.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import zlib
from itertools import chain
from pathlib import Path

from .. import heartbeat, protocol
from ..paths import workspace
from ..protocol import CHUNK, FRAME, GuestError, tree_id
from . import reconcile, transition
from .lock import acquire
from .record import PushRecord, find_as_pushed, hold_tree
from .staging import RunningHash, Staging

TYPE_CHECKING = False  # see record.py
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..messages import Difference, MissingFiles, PushReply, PushRequest, PushSummary, TreeEntry
    from .reconcile import PushPlan

FRAME_LIMIT = 1 << 28
FRESH_S = 0.05
SPARE_BYTES = 1 << 20  # for records and folders
LOOKS = 5  # at a workspace that changes while it is looked at


class Disconnected(Exception):
    """The other side has left."""


def push(request: PushRequest) -> None:
    """Take part in a push to its end; a GuestError before the last turn has changed nothing."""
    lock = -1
    heartbeat.begin()
    try:
        # who has left before the first question must not end another's push
        turn, first = _read_frames(), []
        for frame in turn:
            first.append(frame)
            if frame[0] in (protocol.ASK_EARLY, protocol.COMING):
                break
        if not request["dry_run"]:
            if not request["force"]:  # who is refused must not end another's push
                reconcile.refuse_other_origin(
                    PushRecord(request["project"]), request["origin"], request["place"]
                )
            lock = acquire(request)
        _Conversation(request).run(chain(first, turn))
    except Disconnected:
        raise SystemExit(1) from None
    finally:
        if lock >= 0:
            os.close(lock)


class _Conversation:
    """One push: what has been received so far."""

    def __init__(self, request: PushRequest) -> None:
        self.request = request
        self.dry_run: bool = request["dry_run"]
        self.force: bool = request["force"]
        self.root = str(workspace(request["project"]))
        self.known = PushRecord(request["project"])
        self.staging = Staging(request["project"], Path(self.root))
        self.wanted: dict[str, TreeEntry] | None = None
        self.running_hash: RunningHash | None = None
        self.stream = zlib.decompressobj()

    def run(self, first: Iterable[tuple[bytes, bytes]]) -> None:
        """Turn by turn until it is done."""
        turn = first
        while True:
            self._read_turn(turn)
            answer = self._answer()
            _send(answer)
            if "ask" not in answer and "want" not in answer:
                return
            turn = _read_frames()

    def _read_turn(self, turn: Iterable[tuple[bytes, bytes]]) -> None:
        """Take in one turn of the other side."""
        for kind, data in turn:
            if kind == protocol.TREE:
                self.wanted = _checked(json.loads(zlib.decompress(data)))
            elif kind == protocol.DIFFERENCE:
                self._apply_difference(json.loads(zlib.decompress(data)))
            elif kind == protocol.ASK_EARLY:
                self._answer_early()
            elif self.dry_run:
                continue
            elif kind == protocol.PACKED:
                self._take(memoryview(self.stream.decompress(data)))
            elif kind == protocol.RAW:
                self._take(memoryview(data))
            elif kind == protocol.PLACED:
                sums = self.running_hash.sums() if self.running_hash else {}
                for sha256, length, place in json.loads(data):
                    self.staging.adopt(sha256, length, place, sums.get(place, ""))
                self.running_hash = None
            elif kind == protocol.COMING:
                self.running_hash = RunningHash(self.staging, json.loads(data))

    def _apply_difference(self, difference: Difference) -> None:
        first = self.wanted is None
        if first and self.request["base"] != self.known.tree:
            return
        wanted = dict(self.known.files) if self.wanted is None else self.wanted
        wanted.update(_checked(difference["put"]))
        for path in difference["gone"]:
            wanted.pop(path, None)
        asked = self.request["tree"]  # naming a tree takes as long as looking through it
        if first and asked != self.known.tree and asked != tree_id(wanted):
            return
        self.wanted = wanted

    def _take(self, data: memoryview) -> None:
        while data:
            sha256, size, offset, length = CHUNK.unpack(data[: CHUNK.size])
            chunk = data[CHUNK.size : CHUNK.size + length]
            try:
                self.staging.add(sha256.hex(), size, offset, chunk)
            except OSError:  # a full disk is not kept full
                self.staging.remove()
                raise
            data = data[CHUNK.size + length :]

    def _answer_early(self) -> None:
        """Report what is missing while the other side goes on; nothing is put in place yet."""
        if self.wanted is None:
            _send({"ask": "tree"})
            return
        numbers, plan = self._compare()
        if plan.conflicts:
            _send({"conflicts": plan.conflicts})
            for (
                _
            ) in _read_frames():  # the other side reads our line when it has sent all of its own
                pass
            raise SystemExit(0)
        _send({"want": self._request_missing(self._missing(plan), plan, numbers)})

    def _compare(self) -> tuple[dict[str, int], PushPlan]:
        assert self.wanted is not None
        if not self.force:
            reconcile.refuse_wrong_folder(
                self.known, self.wanted, self.request["origin"], self.request["place"]
            )
        numbers = {path: number for number, path in enumerate(sorted(self.wanted))}
        plan = reconcile.compare(self.root, self.wanted, self.known, self.force)
        if not (self.dry_run or plan.conflicts):
            transition.refuse_locked(self.root, plan)
        return numbers, plan

    def _answer(self) -> PushReply:
        """What is still to come; when nothing is, carry the push out."""
        if self.wanted is None:
            return {"ask": "tree"}
        for _ in range(LOOKS):
            numbers, plan = self._compare()
            if self.dry_run:
                return {"plan": self._done(plan, numbers, plan.delete)}
            if plan.conflicts:
                return {"conflicts": plan.conflicts}
            looked = time.monotonic()
            missing = self._missing(plan)
            if missing:
                return {"want": self._request_missing(missing, plan, numbers)}
            # proving what an earlier push left takes long: what runs here may write meanwhile
            fresh = time.monotonic() - looked < FRESH_S
            if self.force or fresh or transition.is_unchanged(self.root, plan):
                return {"done": self._apply(plan, numbers)}
        raise GuestError(
            "conflict",
            "Files on the VM keep changing while they are being replaced.",
            "See what runs: vmctl ps",
        )

    def _missing(self, plan: PushPlan) -> dict[str, int]:
        """path: bytes held, for one path of each content that is neither staged nor here."""
        needed: dict[str, str] = {}
        for path, entry in plan.put.items():
            if entry[0] == "f" and entry[2]:
                needed.setdefault(entry[1], path)
        if not needed:
            return {}
        self._copy_here(needed, plan)
        missing = {}
        for sha256, path in needed.items():
            size = plan.put[path][2]
            held = self.staging.held_bytes(sha256, size)
            if held < size:
                missing[path] = held
        return missing

    def _copy_here(self, needed: dict[str, str], plan: PushPlan) -> None:
        """A file that only moved is copied on this machine."""
        for path, entry in self.known.files.items():
            if entry[0] != "f" or entry[1] not in needed or entry[1] in self.staging.whole:
                continue
            place = f"{self.root}/{path}"
            if plan.seen.get(path, ()) is None or find_as_pushed(place, [entry]) is None:
                continue
            try:
                self.staging.copy(entry[1], place)
            except OSError:  # a full disk is not kept full
                self.staging.remove()
                raise

    def _request_missing(
        self, missing: dict[str, int], plan: PushPlan, numbers: dict[str, int]
    ) -> MissingFiles:
        entries = plan.put
        needed = sum(entries[path][2] - held for path, held in missing.items())
        free = self.staging.free_bytes()
        if needed + SPARE_BYTES > free:
            self.staging.remove()
            raise GuestError("disk_full", f"this push needs {_mb(needed)}, {_mb(free)} are free")
        older: dict[int, str] = {}
        for path, held in missing.items():
            sha256, size = entries[path][1:3]
            # a difference that was cut goes on, also if the older version was removed
            is_resumed = size >= protocol.DELTA_BYTES and not held and self.staging.has_placed(path)
            if sha256 in plan.older or is_resumed:
                older[numbers[path]] = plan.older.get(sha256, path)
        if older and not _has_rsync():
            older = {}
        return {
            "files": _ranges(numbers[path] for path in missing),
            "held": {numbers[path]: held for path, held in missing.items() if held},
            "older": older,
            "placed": self.staging.placed(Path(self.root), older.values()),
        }

    def _done(self, plan: PushPlan, numbers: dict[str, int], deleted: list[str]) -> PushSummary:
        return {
            "put": _ranges(numbers[path] for path in plan.put),
            "deleted": deleted,
            "kept": plan.keep,
            "conflicts": plan.conflicts,
        }

    def _apply(self, plan: PushPlan, numbers: dict[str, int]) -> PushSummary:
        assert self.wanted is not None
        known, request = self.known, self.request
        kept = {path: known.versions(path)[-1] for path in plan.keep}
        # what will be on record; writing it is left out where it is the same
        same = (
            not (plan.put or plan.touch or plan.delete or known.pending)
            and (known.origin, known.place) == (request["origin"], request["place"])
            and (known.files, known.preexisting, known.kept)
            == (self.wanted, plan.preexisting, kept)
        )
        deleted: list[str] = []
        if not same:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
            known.origin, known.place = request["origin"], request["place"]
            plan.wanted_folders = reconcile.folders_of(self.wanted) | {
                path for path, entry in self.wanted.items() if entry[0] == "d"
            }
            with hold_tree(request["project"]):
                deleted = transition.apply(self.root, plan, known, self.staging)
                known.files, known.preexisting, known.kept = self.wanted, plan.preexisting, kept
                known.commit()
        self.staging.remove()
        return {**self._done(plan, numbers, deleted), "tree": known.tree}


def _checked(entries: dict[str, TreeEntry]) -> dict[str, TreeEntry]:
    """Entries whose paths stay in the workspace."""
    for path in entries:
        if not path or path.startswith("/") or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise GuestError("invalid", f"'{path}' is not a valid project path.")
    return entries


def _ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Numbers as [first, last] pairs."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def _has_rsync() -> bool:
    import shutil

    return shutil.which("rsync") is not None


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _read_frames() -> Iterator[tuple[bytes, bytes]]:
    """The frames of one turn of the other side, as they come."""
    while True:
        kind, size = FRAME.unpack(_read_exactly(FRAME.size))
        if size > FRAME_LIMIT:
            raise GuestError("failed", "Received data that is not a push", "vmctl push")
        data = _read_exactly(size)
        if kind == protocol.END_TURN:
            return
        yield kind, data


def _read_exactly(size: int) -> bytes:
    data = sys.stdin.buffer.read(size)
    if len(data) < size:
        raise Disconnected
    return data


def _send(answer: PushReply) -> None:
    data = memoryview(json.dumps(answer).encode() + b"\n")
    heartbeat.hush()
    while data:
        data = data[os.write(1, data) :]
    heartbeat.resume()
