"""Files from the VM as one stream: a listing, then each file's missing bytes, proven by SHA-256.

The other end is vmctl/guest/files/sender.py, which documents the order of the records.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vmctl.domain.errors import Conflict, IntegrityError, InvalidInput
from vmctl.domain.guest_replies import END, HEADER, TRAILER, listing_length
from vmctl.domain.reply_shapes import Shape, checked, decoded, unexpected_reply
from vmctl.domain.sync.remote_listing import sane_time
from vmctl.domain.text import one_line
from vmctl.guest.protocol import LISTED, LISTING_BYTES
from vmctl.ssh import rpc
from vmctl.ssh.processes import end_process
from vmctl.ssh.remote_output import READ_BYTES, RemoteOutput, tail_of, write_to
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.ssh.transfer.destination import Destination, PartFile

if TYPE_CHECKING:
    from vmctl.guest.messages import RemoteListing
    from vmctl.guest.protocol import Verb

LINE_BYTES = 1 << 16
LISTING_VALUES = 8 * LISTED + (1 << 16)  # an entry is a list of six, and commas stand in names
MUCH_BYTES = 1 << 20  # of a file: then the room for it is looked at again
PIPE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class FileRequest:
    """One file of the listing and where it belongs below the destination."""

    number: int
    remote: str
    relative: str
    size: int
    mtime_ns: int
    mode: int


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """One file that is here now, whole: its SHA-256 was the same on both sides.

    `unchanged` when it was here already, and so nothing had to be sent.
    """

    want: FileRequest
    bytes: int
    resumed_at: int
    sha256: str
    replaced: bool
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Partial:
    """What is here of a file before the transfer: bytes, their SHA-256, the running digest.

    `whole` when they are the file itself under its name, not the rest of a cut fetch.
    """

    offset: int = 0
    sha256: str = ""
    digest: Any = None
    whole: bool = False
    changing_ok: bool = False


class DownloadStream:
    """One program run on the VM that sends files; a context manager."""

    def __init__(
        self, ssh: OpenSSH, verb: Verb[Any, RemoteListing], request: Mapping[str, Any]
    ) -> None:
        self._ssh = ssh
        self._first = True
        self._verb, self._request = verb, request
        self._begin()

    def _begin(self) -> None:
        self._process = rpc.stream(self._ssh, self._verb, self._request)
        assert self._process.stdout is not None
        self._output = RemoteOutput(self._process.stdout.fileno(), marked=True)
        _widen(self._process)

    def __enter__(self) -> DownloadStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        end_process(self._process)

    # -- records -------------------------------------------------------------------------------

    def listing(self, *, waits: bool) -> Generator[str, None, dict[str, Any]]:
        """Yields why it waits, whenever it says so; returns the listing as it was sent.

        Raises IntegrityError for one of more than LISTING_BYTES, and for a wait that nobody asked
        for.
        """
        shape = listing_length(LISTING_BYTES)
        while True:
            record = self._record(shape)
            if "waiting" in record:
                if not waits:
                    raise unexpected_reply("it waits although it was not asked to")
                yield record["waiting"]
                continue
            packed = b"".join(self._bytes(record["listing"]))
            try:
                unpacker = zlib.decompressobj()
                data = unpacker.decompress(packed, LISTING_BYTES + 1)
                found = decoded(data, LISTING_BYTES, LISTING_VALUES)
            except (ValueError, zlib.error) as error:
                raise unexpected_reply("its listing is not JSON, or too much of it") from error
            if not isinstance(found, dict):
                raise unexpected_reply("its listing is not an object")
            return found

    def ask(self, wanted: Sequence[tuple[int, int, str]]) -> None:
        """Say which files are wanted, each from an offset with the sum of what comes before."""
        assert self._process.stdin is not None
        line = json.dumps({"files": wanted}).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):  # the stream ends, and its end tells why
            write_to(self._process.stdin.fileno(), line, self._output)

    def finish(self) -> None:
        """The other side has sent all that it promised."""
        self._record(END)

    def receive(
        self,
        destination: Destination,
        want: FileRequest,
        partial: Partial,
        instead_of: str | None = None,
    ) -> Generator[int, None, Callable[[], ReceivedFile]]:
        """The next file of the stream; yields bytes as they come, or as they were here before.

        What it returns puts the proven file on the disk and gives it its name: in any thread, and
        exactly once. It raises Conflict unless the file with the SHA-256 `instead_of` stands there
        ("": no file must); None: whatever stands there is replaced.
        """
        begins, left = self._header(want, partial.offset)
        if begins and partial.whole:
            if left or self._record(TRAILER)["sha256"] != partial.sha256:
                raise unexpected_reply(
                    f"{one_line(want.relative)} is reported unchanged but differs"
                )
            destination.set_mode(want.relative, want.mode)
            yield begins
            same = ReceivedFile(
                want, begins, begins, partial.sha256, replaced=False, unchanged=True
            )
            return lambda: same
        digest = partial.digest if begins else hashlib.sha256()
        total = begins + left
        part = destination.open_part(want.relative)
        try:
            if part.size < begins:
                raise Conflict(
                    f"Another command removed the partial download of {one_line(want.relative)}.",
                    hint="Run the same command again.",
                )
            part.begin(begins)
            if left > MUCH_BYTES:
                destination.require(left)  # the disk here may have filled meanwhile
            if begins:
                yield begins
            for data in self._bytes(left):
                digest.update(data)
                _write(part, data)
                yield len(data)
            trailer = self._record(TRAILER)
            sha256 = digest.hexdigest()
            _prove(part, want, trailer, sha256, partial.changing_ok)
        except BaseException:
            part.close()
            raise

        def finish() -> ReceivedFile:
            try:
                # mode and time of what was sent, which may be newer than the listing
                times = trailer["mode"] & 0o777, sane_time(trailer["mtime_ns"])
                replaced = part.finish(*times, instead_of)
            finally:
                part.close()
            return ReceivedFile(want, total, begins, sha256, replaced)

        return finish

    def _header(self, want: FileRequest, offset: int) -> tuple[int, int]:
        record = self._record(HEADER)
        number, begins, left = record["number"], record["offset"], record["bytes"]
        if number != want.number or begins not in (0, offset):
            raise IntegrityError(
                f"The VM sent another part of {one_line(want.relative)} than was asked for.",
                hint="Nothing was kept; run the same command again.",
            )
        if begins + left > want.size:
            raise IntegrityError(
                f"The VM listed {one_line(want.relative)} with {want.size} bytes and sends "
                f"{begins + left}.",
                hint="Nothing was kept; check it on the VM: vmctl ssh",
            )
        return begins, left

    # -- bytes ---------------------------------------------------------------------------------

    def _record(self, shape: Shape) -> dict[str, Any]:
        """The next line, checked."""
        line = self._output.line(LINE_BYTES)
        while not line:
            self._start_again()
            line = self._output.line(LINE_BYTES)
        try:
            found = decoded(line)
        except ValueError as error:
            raise unexpected_reply("a line is not JSON") from error
        record: dict[str, Any] = checked(shape, found, self._verb)
        return record

    def _bytes(self, left: int) -> Generator[bytes, None, None]:
        while left:
            data = self._output.some(min(left, READ_BYTES))
            if not data:
                self._start_again()
            left -= len(data)
            yield data

    def _start_again(self) -> None:
        """Where the helpers had to be installed first, once; else raise why it ended."""
        errors, code = tail_of(self._process)
        first, self._first = self._first and not self._output.came, False
        if first and rpc.repair(self._ssh, code, errors, replied=False):
            end_process(self._process)
            self._begin()
            return
        raise rpc.explain_end(self._ssh, code, errors)


def _write(part: PartFile, data: bytes) -> None:
    try:
        part.write(data)
    except OSError as error:
        if error.errno in (28, 122, 27):  # disk full, over quota, or a file too large for it
            part.drop()  # the bytes would only keep it full
            if error.errno == 27:
                raise InvalidInput(
                    "The local file system does not support files this large.",
                    hint="Save elsewhere: --to DIR",
                ) from error
        raise


def _prove(
    part: PartFile, want: FileRequest, trailer: dict[str, Any], sha256: str, changing_ok: bool
) -> None:
    name = one_line(want.relative.rpartition("/")[2])
    if trailer["sha256"] != sha256:
        part.drop()
        raise IntegrityError(
            f"{name} was corrupted in transfer: its SHA-256 differs.",
            hint="Nothing was kept; run the same command again.",
        )
    if trailer["changed"] and not changing_ok:
        part.drop()
        raise FileChanged(
            f"{name} was changed on the VM while it was being fetched.",
            hint="Wait for it: vmctl fetch --wait, or fetch it as it is: vmctl fetch --force",
        )


class FileChanged(Conflict):
    """A file was written to while it was being sent."""


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
