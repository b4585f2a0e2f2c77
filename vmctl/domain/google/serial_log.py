"""What a VM's serial port tells of its boot: the start-up script, the driver."""

from __future__ import annotations

import re

from vmctl.domain.text import one_line

_BEGUN = "Starting startup scripts"
_ENDED = re.compile(
    r"startup-script(?:-url)?\"?:? (?:exit status|exited with status|return code) (\d+)", re.I
)
_DRIVER = re.compile(r"nvidia|NVRM|nouveau", re.I)


def script_code(log: str) -> int | None:
    """With which code the script ended; None where the log does not say so."""
    found = _ENDED.findall(_last_boot(log))
    return int(found[-1]) if found else None


def script_lines(log: str) -> list[str]:
    """What the script wrote, line by line, each with the port's own prefix."""
    lines = _last_boot(log).splitlines()
    return [one_line(line.strip()) for line in lines if "startup-script" in line]


def driver_lines(log: str) -> list[str]:
    """The lines about NVIDIA's driver, of its installation or the kernel."""
    return [one_line(line.strip()) for line in log.splitlines() if _DRIVER.search(line)]


def _last_boot(log: str) -> str:
    return log.rpartition(_BEGUN)[2]
