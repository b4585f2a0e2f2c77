"""Our side of the push conversation: what vmctl/guest/sync/receiver.py describes, in turns."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from vmctl.domain.errors import Conflict, InvalidInput
from vmctl.domain.guest_replies import push_reply
from vmctl.domain.limits import PUSH_BYTES, PUSH_VALUES
from vmctl.domain.reply_shapes import checked, decoded, unexpected_reply
from vmctl.domain.sync.tree import TreeEntry
from vmctl.domain.text import one_line
from vmctl.guest import protocol
from vmctl.guest.protocol import CHUNK, FRAME, PUSH
from vmctl.ssh import rpc
from vmctl.ssh.processes import end_process
from vmctl.ssh.remote_output import RemoteOutput, tail_of, write_to
from vmctl.ssh.session.openssh import OpenSSH

if TYPE_CHECKING:
    from vmctl.guest.messages import Difference, PushReply, PushRequest

BATCH_BYTES = 1 << 18  # of contents in one frame: what a cut may cost
FIRST_BYTES = 1 << 14  # in the first one: TCP opens its window the sooner
SAMPLE_BYTES = 1 << 16
GAIN = 0.95  # what compresses to more than this part of itself travels as it is
LEVEL = 4  # 5 saves 1 % of the bytes, for an eighth more processor time than a slow laptop has


class HelpersReinstalled(Exception):
    """The helpers were not on the VM, or not whole; they are there now: begin again."""


class Blob(NamedTuple):
    """One file to send from an offset on; `sha256` is what it had when it was looked at."""

    path: str
    sha256: str
    size: int
    offset: int = 0


class Sent(NamedTuple):
    """Bytes of a file that were sent; the VM will have it up to `end`."""

    content: Blob
    end: int
    bytes: int


class UploadStream:
    """One running "push" verb."""

    def __init__(self, ssh: OpenSSH) -> None:
        self.ssh = ssh
        self.process = ssh.popen(rpc.verb_line(PUSH, ssh.target.place))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in = self.process.stdin.fileno()
        self._output = RemoteOutput(self.process.stdout.fileno(), marked=True)
        self._files = 0  # of the tree, which the VM may name by their numbers
        self.sent_bytes = 0
        self._compressor = zlib.compressobj(LEVEL)
        self._batch_bytes = FIRST_BYTES

    def request(self, request: PushRequest) -> None:
        """The first line."""
        self._write(json.dumps(request).encode() + b"\n")

    def tree(self, tree: dict[str, TreeEntry]) -> None:
        """The whole tree."""
        self._files = len(tree)
        self._frame(protocol.TREE, zlib.compress(json.dumps(tree).encode(), LEVEL))

    def difference(self, put: dict[str, TreeEntry], gone: Sequence[str], files: int) -> None:
        """What differs from what the VM knows; `files` are in the whole tree then."""
        self._files = files
        difference: Difference = {"put": put, "gone": list(gone)}
        self._frame(protocol.DIFFERENCE, zlib.compress(json.dumps(difference).encode(), LEVEL))

    def announce_rsync(self, contents: Iterable[Blob]) -> None:
        """These are being brought by rsync; the VM may read along."""
        self._announce(protocol.COMING, contents)

    def announce_placed(self, contents: Iterable[Blob]) -> None:
        """These were brought by another program."""
        self._announce(protocol.PLACED, contents)

    def _announce(self, kind: bytes, contents: Iterable[Blob]) -> None:
        files = [[content.sha256, content.size, content.path] for content in contents]
        self._frame(kind, json.dumps(files).encode())

    def send(
        self, root: Path, contents: Iterable[Blob], is_enough: Callable[[], bool] = bool
    ) -> Iterator[Sent]:
        """Send contents until it is enough; yields what was sent.

        Whether a file still is what its SHA-256 says is the VM's to prove; raises where one
        cannot be read.
        """
        batch = bytearray()
        for content, offset, data, packs in _pieces(root, contents):
            header = CHUNK.pack(bytes.fromhex(content.sha256), content.size, offset, len(data))
            if packs:
                batch += header
                batch += data
                if len(batch) >= self._batch_bytes:
                    self._pack(batch)
                    self._batch_bytes = min(2 * self._batch_bytes, BATCH_BYTES)
                    batch = bytearray()
            else:
                self._frame(protocol.RAW, header, data)
            yield Sent(content, offset + len(data), len(data))
            if is_enough():
                break
        if batch:
            self._pack(batch)

    def ask_early(self) -> None:
        """Let the VM say at once what it will want; contents may go on."""
        self._frame(protocol.ASK_EARLY)

    def has_reply(self) -> bool:
        """Whether the VM has replied, or has ended."""
        return self._output.has_line()

    def end_turn(self) -> PushReply:
        """End our turn and take in the VM's; raises the VM's refusal, or what ended the link."""
        self._frame(protocol.END_TURN)
        return self.reply()

    def reply(self) -> PushReply:
        """Wait for what the VM says; it has been checked."""
        line = self._output.line(PUSH_BYTES)
        self.ssh.is_noisy = self.ssh.is_noisy or self._output.had_noise
        if not line:
            raise self._end_reason()
        try:
            found = decoded(line, PUSH_BYTES, PUSH_VALUES)
        except ValueError as error:
            reason = self._end_reason()  # where there were no helpers, a shell has spoken
            if isinstance(reason, HelpersReinstalled):
                raise reason from error
            raise unexpected_reply("the reply to push is not JSON, or too long") from error
        reply: PushReply = checked(push_reply(self._files), found, PUSH)
        return reply

    def close(self) -> None:
        """Leave no ssh behind, however it ended."""
        end_process(self.process)

    def _pack(self, batch: bytearray) -> None:
        data = self._compressor.compress(batch) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        self._frame(protocol.PACKED, data)

    def _frame(self, kind: bytes, *parts: bytes) -> None:
        self._write(FRAME.pack(kind, sum(map(len, parts))), *parts)

    def _write(self, *parts: bytes) -> None:
        data = b"".join(parts)  # in one piece: ssh makes a packet of what it finds
        try:
            write_to(self._in, data, self._output)
        except BrokenPipeError as error:
            raise self._end_reason() from error
        self.sent_bytes += len(data)

    def _end_reason(self) -> Exception:
        """Why the verb ended before its last turn."""
        errors, code = tail_of(self.process)
        if rpc.repair(self.ssh, code, errors, replied=self._output.came):
            return HelpersReinstalled()
        return rpc.explain_end(self.ssh, code, errors)


def _pieces(root: Path, contents: Iterable[Blob]) -> Iterator[tuple[Blob, int, bytes, bool]]:
    """Each file in pieces: its offset, its bytes, whether they are worth compressing."""
    for content in contents:
        with open_file(root, content.path) as file:
            file.seek(content.offset)
            offset, packs = content.offset, True
            while offset < content.size:
                data = file.read(min(BATCH_BYTES, content.size - offset))
                if not data:  # it became shorter: the VM will not find it whole
                    break
                if offset == content.offset and len(data) > SAMPLE_BYTES:
                    sample = data[:SAMPLE_BYTES]
                    packs = len(zlib.compress(sample, LEVEL)) < GAIN * len(sample)
                yield content, offset, data, packs
                offset += len(data)


def open_file(root: Path, path: str) -> IO[bytes]:
    """A file of the folder; one clear error where it cannot be read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(f"{root}/{path}", flags), "rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Conflict(
            f"{one_line(path)} disappeared while it was being pushed.", hint="vmctl push"
        ) from error
    except OSError as error:
        raise InvalidInput(
            f"{one_line(path)} cannot be read on this computer: {error.strerror}.",
            hint="Make it readable, or exclude it: [push] exclude in vmctl.toml",
        ) from error
