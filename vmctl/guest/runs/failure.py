"""What the failure of a job's step means, in one sentence with what to do next."""

from __future__ import annotations

import re
from pathlib import Path

SCRIPT_BYTES = 1 << 20
FULL = r"No space left on device|Disk quota exceeded"
UNREACHABLE = (
    r"NewConnectionError|Failed to establish a new connection|Name or service not known|"
    r"Temporary failure in name resolution|Network is unreachable|ConnectTimeoutError|"
    r"ReadTimeoutError|ProxyError|CERTIFICATE_VERIFY_FAILED"
)


def explain_line_ends(line: str, folder: Path) -> str:
    """A script with Windows' line ends fails in words that nobody understands; "" without one."""
    for name in (word.strip("\"';|&()") for word in line.split()):
        file = folder / name
        try:
            data = file.read_bytes() if file.stat().st_size < SCRIPT_BYTES else b""
        except (OSError, ValueError):
            continue
        if b"\r\n" in data and (data.startswith(b"#!") or file.suffix in (".sh", ".bash")):
            return (
                f"{name} has Windows line ends (CRLF), which a shell takes for a part of its "
                f"words. Remove them: sed -i 's/\\r$//' {name}"
            )
    return ""


def explain_pip(told: str, job: str, package: str, version: str, on_cluster: bool) -> str:
    """Why pip failed, by the end of what it told; `package` is "" for a script's requirements."""
    if re.search(FULL, told):
        return "The disk there is full. See what fills it: vmctl exec 'du -xhd1 ~'"
    if re.search(UNREACHABLE, told):
        if on_cluster:
            return (
                "The package index cannot be reached from the cluster's node. Bring the files to "
                "the login node: vmctl exec 'python3 -m pip download -d ~/wheels NAME && "
                "python3 -m pip config set global.find-links ~/wheels'"
            )
        return (
            "The package index cannot be reached from there. Try: vmctl exec -- python3 -m pip "
            "download --no-deps -d /tmp pip; a mirror or proxy is named in ~/.config/pip/pip.conf"
        )
    lists = f"what {package}/ requires" if package else f"requirements in [jobs.{job}]"
    again = f"then: vmctl {'push && vmctl ' if package else ''}run {job}"
    if found := re.search(r"No matching distribution found for ([^\n]+)", told):
        name = found[1].strip()
        return f"pip finds no {name} for Python {version}. Correct {lists}, {again}"
    if "ResolutionImpossible" in told:
        return f"Nothing fits all that is asked for (see the lines above). Correct {lists}, {again}"
    if package:
        return (
            f"{package}/ cannot be built and installed (see the lines above). Correct it, {again}"
        )
    return f"A requirement cannot be installed (see the lines above). Correct {lists}, {again}"
