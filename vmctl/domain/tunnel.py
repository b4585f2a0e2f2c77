"""Tunnels: what a word on the command line means, the URL, and when to try again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from vmctl.domain.errors import InvalidInput, NotFound
from vmctl.domain.names import nearest


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A port of this computer that leads to one of the VM; `service` is "" for a bare port."""

    local_port: int
    remote_port: int
    service: str = ""


def parse_forwarding(
    what: str, service_ports: Iterable[tuple[str, int]], port: int | None
) -> Forwarding:
    """`tensorboard`, `8000` or `8000:80`; `port` is the local one where it was given."""
    services = dict(service_ports)
    if port is not None:
        _check(port, str(port))
    if what in services:
        return Forwarding(port or services[what], services[what], what)
    found = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", what)
    if not found:
        known = ", ".join(sorted(services))
        close = nearest(what, services)
        meant = f"vmctl tunnel {close}" if close else f"One of: {known}, or PORT[:REMOTE]."
        raise NotFound(f"There is no service '{what}'.", hint=meant)
    first = _check(int(found.group(1)), what)
    second = _check(int(found.group(2)), what) if found.group(2) else first
    return Forwarding(port or first, second)


def _check(port: int, shown: str) -> int:
    if not 1 <= port <= 65535:
        raise InvalidInput(
            f"A port is from 1 to 65535, not {shown}.", hint="Such as: vmctl tunnel 8000:80"
        )
    return port


def url(forwarding: Forwarding, token: str = "") -> str:
    """What to open in the browser."""
    base = f"http://127.0.0.1:{forwarding.local_port}/"
    return f"{base}?token={quote(token)}" if token else base


def backoff_s(attempt: int) -> float:
    """Seconds to wait before try number `attempt` (from 0): quick at first, never long."""
    return min(0.2 * 2**attempt, 2.0) if attempt < 8 else 2.0
