"""Tunnels: what a word on the command line means, and the URL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from vmctl.domain.errors import InvalidInput, NotFound
from vmctl.domain.names import find_nearest

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A port of this computer that leads to one of the VM; `service` is "" for a bare port.

    `host` is where the VM reaches the port: itself, or a cluster's node.
    """

    local_port: int
    remote_port: int
    service: str = ""
    host: str = "127.0.0.1"

    @property
    def what(self) -> str:
        """The word that opens it."""
        return self.service or str(self.remote_port)


def parse_port(word: str | None) -> tuple[int | None, bool]:
    """The value of --port: the port where one was given, and whether the next free one will do."""
    if word is None:
        return None, False
    if word.strip().lower() == AUTO:
        return None, True
    if not re.fullmatch(r"[0-9]{1,9}", word.strip()):
        raise InvalidInput(
            f"'{word}' is not a port.",
            hint="Such as: --port 8080, or the next free one: --port auto",
        )
    return _check(int(word), word), False


def parse_forwarding(
    what: str, service_ports: Iterable[tuple[str, int]], port: int | None
) -> Forwarding:
    """`tensorboard`, `8000` or `8000:80`; `port` is the local one where it was given."""
    services = dict(service_ports)
    if port is not None:
        _check(port, str(port))
    if what in services:
        return Forwarding(port or services[what], services[what], what)
    found = re.fullmatch(r"([0-9]{1,9})(?::([0-9]{1,9}))?", what)
    if not found:
        known = ", ".join(sorted(services))
        close = find_nearest(what, services)
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
