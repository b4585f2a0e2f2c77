"""Every way vmctl can fail, as one tree: message, hint with the next command, exit code.

VmctlError            1   something we did not foresee
├── InvalidInput      2   an argument, a setting or a file of the user's is wrong
├── NotFound          3   no such VM, job, run, service or path
├── Conflict          4   it exists already, is in use, or is in the wrong state
├── AccessDenied      5   credentials, permission, API or billing
├── NoCapacity        6   stockout or quota
├── Unreachable       7   no connection, or the host key is not the pinned one
│   └── HostKeyChanged
├── TimedOut          8   it took longer than its limit
├── IntegrityError    9   a transfer whose checksum or length is wrong
└── JobFailed         the job's own exit code
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar


class VmctlError(Exception):
    """A failure in one sentence, with a hint that says what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        # where it was tried, Google's answer, what to do: shown before the message
        self.attempts: Sequence[Mapping[str, object]] = ()
        # what proves it, such as the end of a log: shown before the message as well
        self.evidence: Sequence[str] = ()


class InvalidInput(VmctlError):
    """An argument, a setting or a file of the user's is wrong."""

    exit_code = 2


class NotFound(VmctlError):
    """No such VM, job, run, service or path."""

    exit_code = 3


class Conflict(VmctlError):
    """It exists already, is in use, or is in a state that does not allow this."""

    exit_code = 4


class AccessDenied(VmctlError):
    """Credentials, permissions, the API or billing stand in the way."""

    exit_code = 5


class NoCapacity(VmctlError):
    """The zone has none left, or the quota is too small."""

    exit_code = 6


class Unreachable(VmctlError):
    """The VM or the service does not answer."""

    exit_code = 7


class HostKeyChanged(Unreachable):
    """The machine that answered is not the one whose host key is pinned."""


class TimedOut(VmctlError):
    """It took longer than its limit."""

    exit_code = 8


class IntegrityError(VmctlError):
    """What arrived is not what was sent: nothing of it is kept under its name."""

    exit_code = 9


class JobFailed(VmctlError):
    """A job, or a command run on the VM, ended with a code of its own."""

    def __init__(self, message: str, *, code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


def exit_code_of(error: VmctlError) -> int:
    """The process exit code for an error; a job's own code where it has one."""
    return error.code if isinstance(error, JobFailed) else error.exit_code


def connection_error() -> Unreachable:
    """For a connection of whatever kind that ended where nothing more is known of it."""
    return Unreachable("A connection ended in the middle of the command.", hint="Run it again.")
