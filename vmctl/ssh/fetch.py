"""Files from the VM as one stream: a listing, then each file's missing bytes, proven by SHA-256.

The other end is vmctl/guest/sending.py, where the order of what is said is written down.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

from vmctl.domain.errors import Conflict, InvalidInput, NotProvenWhole
from vmctl.domain.listing import sane_time
from vmctl.domain.probe import one_line
from vmctl.ssh import guest
from vmctl.ssh.landing import Landing, Part
from vmctl.ssh.openssh import OpenSSH
from vmctl.ssh.transfer import end_process

READ_BYTES = 1 << 18
LINE_LIMIT = 1 << 16
LISTING_LIMIT = 256 << 20  # bytes of a listing, unpacked: a few million files
PIPE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Want:
    """One file of the listing and where it belongs below the landing."""

    number: int
    remote: str
    relative: str
    size: int
    mtime_ns: int
    mode: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """One file that is here now, whole: its SHA-256 was the same on both sides.

    `unchanged` when it was here already, and so nothing had to be sent.
    """

    want: Want
    bytes: int
    resumed_at: int
    sha256: str
    replaced: bool
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Have:
    """What is here of a file before it comes: so many bytes, their sum, the running digest.

    `whole` when they are the file itself under its name, not the rest of a cut fetch.
    """

    offset: int = 0
    sha256: str = ""
    digest: Any = None
    whole: bool = False
    changing_ok: bool = False


class Incoming:
    """One program run on the VM that sends files; a context manager."""

    def __init__(self, ssh: OpenSSH, verb: str, request: dict[str, Any]) -> None:
        self._ssh = ssh
        self._process = guest.stream(ssh, verb, request)
        self._rest = b""
        self._first = True
        self._verb, self._request = verb, request
        _widen(self._process)

    def __enter__(self) -> Incoming:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        end_process(self._process)

    # -- what is said --------------------------------------------------------------------------

    def listing(self) -> Generator[str, None, dict[str, Any]]:
        """Yields why it waits, whenever it says so; returns the listing as it was sent."""
        while True:
            record = self._record()
            if "waiting" in record:
                yield str(record["waiting"])
                continue
            try:
                count = int(record["listing"])
            except (KeyError, TypeError, ValueError, OverflowError):
                _distrust()
            if not 0 <= count <= LISTING_LIMIT:
                _distrust()
            packed = b"".join(self._bytes(count))
            try:
                unpacker = zlib.decompressobj()
                found = json.loads(unpacker.decompress(packed, LISTING_LIMIT))
            except (ValueError, zlib.error, RecursionError):
                found = None
            if not isinstance(found, dict):
                _distrust()
            return found

    def ask(self, wanted: Sequence[tuple[int, int, str]]) -> None:
        """Say which files are wanted, each from an offset with the sum of what comes before."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"files": wanted}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the stream ends, and its end tells why

    def finish(self) -> None:
        """The other side has sent all that it promised."""
        if self._record().get("end") is not True:
            _distrust()

    def receive(
        self, landing: Landing, want: Want, have: Have, instead_of: str | None = None
    ) -> Generator[int, None, Callable[[], Arrived]]:
        """The next file of the stream; yields bytes as they come, or as they were here before.

        What it returns puts the proven file on the disk and gives it its name: in any thread, and
        exactly once. It raises Conflict unless the file with the SHA-256 `instead_of` stands there
        ("": no file must); None: whatever stands there is replaced.
        """
        begins, left = self._header(want, have.offset)
        if begins and have.whole:
            trailer = self._record()
            if left or trailer.get("sha256") != have.sha256:
                _distrust()
            landing.give_mode(want.relative, want.mode)
            yield begins
            same = Arrived(want, begins, begins, have.sha256, replaced=False, unchanged=True)
            return lambda: same
        digest = have.digest if begins else hashlib.sha256()
        total = begins + left
        part = landing.part(want.relative)
        try:
            if part.size < begins:
                raise Conflict(
                    f"Another command took what was here of {one_line(want.relative)} away.",
                    hint="The same command again",
                )
            part.begin(begins)
            if begins:
                yield begins
            for data in self._bytes(left):
                digest.update(data)
                _write(part, data)
                yield len(data)
            trailer = self._record()
            sha256 = digest.hexdigest()
            _prove(part, want, trailer, sha256, have.changing_ok)
        except BaseException:
            part.close()
            raise

        def finish() -> Arrived:
            try:
                replaced = part.finish(*_times(trailer, want), instead_of)
            finally:
                part.close()
            return Arrived(want, total, begins, sha256, replaced)

        return finish

    def _header(self, want: Want, offset: int) -> tuple[int, int]:
        record = self._record()
        try:
            number, begins, left = (int(record[key]) for key in ("number", "offset", "bytes"))
        except (KeyError, TypeError, ValueError, OverflowError):
            _distrust()
        if number != want.number or begins not in (0, offset) or left < 0:
            raise NotProvenWhole(
                f"The VM sent another part of {one_line(want.relative)} than was asked for.",
                hint="Nothing of it was kept; run the same command again.",
            )
        return begins, left

    # -- bytes ---------------------------------------------------------------------------------

    def _record(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            if len(self._rest) > LINE_LIMIT:
                _distrust()
            self._rest += self._read() or self._ended()
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            _distrust()
        return found

    def _bytes(self, left: int) -> Generator[bytes, None, None]:
        while left:
            data = self._rest or self._read() or self._ended()
            data, self._rest = data[:left], data[left:]
            left -= len(data)
            yield data

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        data = os.read(self._process.stdout.fileno(), READ_BYTES)
        self._first = self._first and not data
        return data

    def _ended(self) -> bytes:
        """Start once more where the helpers had to be installed first, else raise why it ended."""
        assert self._process.stderr is not None
        told = self._process.stderr.read()
        code = self._process.wait()
        if self._first and code == guest.ABSENT:
            end_process(self._process)
            guest.install(self._ssh)
            self._process = guest.stream(self._ssh, self._verb, self._request)
            _widen(self._process)
            if data := self._read():
                return data
            told, code = self._process.stderr.read(), self._process.wait()  # type: ignore[union-attr]
        raise guest.ended(self._ssh, code, told)


def _write(part: Part, data: bytes) -> None:
    try:
        part.write(data)
    except OSError as error:
        if error.errno in (28, 122, 27):  # disk full, over quota, or a file too large for it
            part.drop()  # the bytes would only keep it full
            if error.errno == 27:
                raise InvalidInput(
                    "The file system here does not take so large a file.",
                    hint="Save elsewhere: --to DIR",
                ) from error
        raise


def _prove(part: Part, want: Want, trailer: dict[str, Any], sha256: str, changing_ok: bool) -> None:
    name = one_line(want.relative.rpartition("/")[2])
    if trailer.get("sha256") != sha256:
        part.drop()
        raise NotProvenWhole(
            f"What arrived of {name} is not what the VM sent: its SHA-256 differs.",
            hint="Nothing of it was kept; run the same command again.",
        )
    if trailer.get("changed") and not changing_ok:
        part.drop()
        raise Changed(
            f"{name} was changed on the VM while it was being fetched.",
            hint="Wait for it: vmctl fetch --wait, or take it as it is: vmctl fetch --force",
        )


class Changed(Conflict):
    """A file was written to while it was being sent."""


def _times(trailer: dict[str, Any], want: Want) -> tuple[int, int]:
    """Mode and time of what was sent, which may be newer than the listing."""
    try:
        return int(trailer["mode"]) & 0o777, sane_time(int(trailer["mtime_ns"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return want.mode, want.mtime_ns


def _distrust() -> NoReturn:
    raise NotProvenWhole(
        "The VM's answer is not what the helper there writes.",
        hint="Look at the VM: vmctl ssh",
    )


def _widen(process: subprocess.Popen[bytes]) -> None:
    """Fewer turns between us and ssh; where the system does not allow it, it works as well."""
    import fcntl

    assert process.stdout is not None
    setting = getattr(fcntl, "F_SETPIPE_SZ", None)
    if setting is not None:
        try:
            fcntl.fcntl(process.stdout.fileno(), setting, PIPE_BYTES)
        except OSError:
            pass
