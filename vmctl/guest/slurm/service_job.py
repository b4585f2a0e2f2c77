"""A web service inside a job: where on its node it listens, and its token."""

from __future__ import annotations

import ipaddress
import os
import socket

from ..paths import STATE, ensure
from ..records import write_json
from ..runs.services import token_of
from .commands import field, run_slurm

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

ANY = "0.0.0.0"


def listen(run: Path, spec: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Choose a free port of this node and note it; the service's command and its variables.

    The token lets people in, and is in a file: arguments and variables can be read by others.
    """
    host, address = node_address()
    with socket.socket() as found:
        found.bind((address, 0))
        port: int = found.getsockname()[1]
    place = ensure(STATE / "services" / spec["job"])
    token_of(place)
    write_json(run / "service.json", {"host": host, "port": port})
    line = str(spec["command"]).replace("{ip}", address).replace("{port}", str(port))
    return line, {"JUPYTER_TOKEN_FILE": str(place / "token")}


def node_address() -> tuple[str, str]:
    """What the login node calls this node, and the address to listen at so that it is reached."""
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    _, text, _ = run_slurm("scontrol", "-o", "show", "node", node)
    host = field(text, "NodeAddr") or node
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return host, ANY
    # a node may know its own name as an address that nobody else reaches
    is_own_idea = ipaddress.ip_address(address).is_loopback and host != address
    return host, ANY if is_own_idea else address
