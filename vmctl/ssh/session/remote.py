"""A VM on the other side of a connection: OpenSSH's master, or fabric's while the VM boots."""

from __future__ import annotations

from typing import IO, NamedTuple, Protocol

from vmctl.domain.command import Command
from vmctl.domain.login.ssh_target import Endpoint

COMMAND_S = 120.0  # for a command that does next to nothing


class Result(NamedTuple):
    """How a command on the VM ended."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "surrogateescape")

    @property
    def error_text(self) -> str:
        """Standard error as text."""
        return self.stderr.decode("utf-8", "replace")


class RemoteStream(Protocol):
    """A command that runs on the VM and whose output is read as it comes."""

    @property
    def stdout(self) -> IO[bytes]:
        """Its standard output."""

    def outcome(self) -> tuple[bytes, int]:
        """The end of its standard error and its exit code, once standard output has ended."""

    def close(self) -> None:
        """End it."""


class Remote(Protocol):
    """What a bring-up needs of a connection, whether OpenSSH or fabric makes it."""

    @property
    def target(self) -> Endpoint:
        """Where the VM answers."""

    def verify(self) -> None:
        """Make sure that the VM answers; raises Unreachable, AccessDenied or HostKeyChanged."""

    def run(
        self, command: str | Command, *, input: bytes | None = None, timeout_s: float = COMMAND_S
    ) -> Result:
        """Run one command and wait; its exit code is data. Raises TimedOut, IntegrityError."""

    def stream(self, command: str | Command) -> RemoteStream:
        """Start a command, while others may run, and read what it writes."""

    def release(self) -> None:
        """End what the next vmctl command has no use for."""
