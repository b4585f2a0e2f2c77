"""What is asked of a VM, and what its answers mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from vmctl.domain.errors import (
    AccessDenied,
    Conflict,
    InvalidInput,
    NotFound,
    Unreachable,
    VmctlError,
)
from vmctl.domain.terminal import visible

DISK_FULL_HINT = (
    "See what fills it: vmctl exec df -h. For a larger disk on a new VM: disk_gb in "
    "vmctl.toml, or --disk-gb"
)

LONGEST_MESSAGE = 1000  # signs that the VM may put into one message
_HINT = r"[\w .,:()'/\[\]=-]{,300}"
_ESCAPES = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_]|.)?"
_CONTROLS = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"


def printable(text: str) -> str:
    """Remote text with terminal escapes, control characters and text-direction tricks taken out."""
    plain = re.sub(_CONTROLS, "", re.sub(_ESCAPES, "", text.replace("\r", "\n")))
    return plain.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """A name or a message of the VM on one line: nothing in it can pass for a line of vmctl's."""
    return visible(text, keep="")


def last_lines(text: str, count: int = 5) -> str:
    """The last lines that say something, cleaned, for an error message."""
    lines = [line.rstrip() for line in printable(text).splitlines() if line.strip()]
    return "\n".join(lines[-count:])


def format_time(moment: datetime | str) -> str:
    """ "Mon 01 Dec at 12:30", in the user's time zone; a text is ISO 8601."""
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{moment.astimezone():%a %d %b at %H:%M}"


def to_iso(moment: datetime | None) -> str | None:
    """ISO 8601, in UTC, to the second."""
    return moment.isoformat(timespec="seconds") if moment else None


class SetupReport(NamedTuple):
    """What set-up found on a VM: the interpreter for jobs, and what it cannot import."""

    python: str
    version: str
    missing: tuple[str, ...]
    added: tuple[str, ...] = ()
    trouble: str = ""
    done_before: bool = False

    @staticmethod
    def parse(answer: Mapping[str, Any]) -> SetupReport:
        """From the helper's answer, which has been checked."""
        return SetupReport(
            python=one_line(answer["python"]),
            version=one_line(answer["version"]),
            missing=tuple(map(one_line, answer["missing"])),
            added=tuple(map(one_line, answer["added"] or ())),
            trouble=one_line(answer["trouble"] or ""),
            done_before=bool(answer["done_before"]),
        )


_KINDS: Mapping[str, type[VmctlError]] = {
    "not_found": NotFound,
    "conflict": Conflict,
    "invalid": InvalidInput,
    "access": AccessDenied,
    "unreachable": Unreachable,
}


def guest_error(error: Mapping[str, Any]) -> VmctlError:
    """The error that a helper on the VM reported, as a VmctlError.

    A hint is typed by people: the VM's is shown only where it is plain words about vmctl, with
    nothing that a shell would take for more.
    """
    kind = str(error.get("kind") or "")
    message = one_line(str(error.get("message") or "The VM refused.").strip())[:LONGEST_MESSAGE]
    hint = one_line(str(error.get("hint") or "").strip())
    if not re.fullmatch(_HINT, hint) or "vmctl" not in hint:
        hint = ""
    if kind == "disk_full":
        return Conflict(f"The VM's disk is full ({message}).", hint=DISK_FULL_HINT)
    if kind == "failed":
        return VmctlError(f"On the VM: {message}.", hint=hint)
    return _KINDS.get(kind, VmctlError)(message, hint=hint)
