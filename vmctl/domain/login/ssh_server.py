"""A server that is reached by the user's own OpenSSH configuration: aliases, jumps, keys."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from vmctl.domain.errors import AccessDenied, HostKeyChanged, Unreachable
from vmctl.domain.login.ssh_target import (
    ALIVE_COUNT,
    ALIVE_INTERVAL_S,
    PERSIST_S,
    GuestPlace,
    quoted_path,
)

CONNECT_TIMEOUT_S = 15  # jumps are connected to one after the other


@dataclass(frozen=True, slots=True)
class ServerEndpoint:
    """Where a server answers: a name for ssh, which the user's own configuration may explain."""

    target: str  # as `--on` names it
    host: str
    user: str = ""  # "": the configuration says
    port: int = 0
    user_config: str = ""  # the user's file, "" for none
    system_config: str = ""
    persist_s: int = PERSIST_S
    place: GuestPlace = field(default_factory=lambda: GuestPlace(is_server=True))

    @property
    def alias(self) -> str:
        """The word that ssh is given."""
        return self.host

    @property
    def address(self) -> str:
        """As a person would write it."""
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def digest(self) -> str:
        """A short name for its control socket."""
        parts = (self.host, self.user, str(self.port), self.user_config)
        return hashlib.sha256("\0".join(("server", *parts)).encode()).hexdigest()[:16]

    @property
    def is_direct(self) -> bool:
        """False: there may be jumps, so its port cannot be probed from here."""
        return False

    @property
    def connect_timeout_s(self) -> int:
        """How long a connection may take to be made."""
        return CONNECT_TIMEOUT_S

    def ssh_config(self, control_path: str) -> str:
        """What vmctl needs, then the user's and the system's files: the first value counts."""
        settings = {
            **({"User": self.user} if self.user else {}),
            **({"Port": str(self.port)} if self.port else {}),
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "RemoteCommand": "none",
            "RequestTTY": "auto",
            "SessionType": "default",
            "StdinNull": "no",
            "ForkAfterAuthentication": "no",
            "PermitLocalCommand": "no",
            "EscapeChar": "none",
            "Tunnel": "no",
            "ConnectTimeout": str(CONNECT_TIMEOUT_S),
            "ServerAliveInterval": str(ALIVE_INTERVAL_S),
            "ServerAliveCountMax": str(ALIVE_COUNT),
            "ControlMaster": "no",
            "ControlPath": quoted_path(control_path),
            "ControlPersist": str(self.persist_s),
            "LogLevel": "ERROR",
        }
        lines = [f"    {name} {value}" for name, value in settings.items()]
        included = [
            f"    Include {quoted_path(file)}"
            for file in (self.user_config, self.system_config)
            if file
        ]
        return "\n".join([f"Host {self.host}", *lines, "Match all", *included, ""])

    def failure(self, stderr: str) -> Unreachable | AccessDenied:
        """What OpenSSH's own failure (exit code 255) means, with the next command."""
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        if "IDENTIFICATION HAS CHANGED" in stderr:
            return HostKeyChanged(
                f"{self.address} shows another host key than the one in your known hosts.",
                hint="Ask its administrator; if it was reinstalled, remove the old key: "
                f"ssh-keygen -R {self._known_name}",
            )
        if "host key is known for" in stderr or "Host key verification failed" in stderr:
            unknown = re.search(r"host key is known for (\S+) and you", stderr)
            shown = re.findall(r"Server host key: (\S+ \S+)", stderr)
            key = f" It shows {shown[-1]}." if shown else ""
            name = unknown[1] if unknown else self.host
            whose = f" (that of {name})" if name not in (self.host, self.address) else ""
            return HostKeyChanged(
                f"The host key of {self.address}{whose} is not in your known hosts.{key}",
                hint=f"Compare it with what its administrator publishes, then accept it: "
                f"{self.plain_command} true",
            )
        if "Permission denied" in stderr:
            ways = re.findall(r"Permission denied \(([^)]*)\)", stderr)
            asks = [w for w in ("password", "keyboard-interactive") if ways and w in ways[-1]]
            if asks:
                return AccessDenied(
                    f"{self.address} asks for a password or a code.",
                    hint=f"Log in once, the connection stays open: vmctl login --on {self.target}",
                )
            return AccessDenied(
                f"{self.address} accepts none of your keys.",
                hint=f"See which are offered: {self.plain_command} -v true",
            )
        if "Could not resolve hostname" in stderr:
            return Unreachable(
                f"There is no host named {self.host}.",
                hint="Check the target's host, and the names in your ~/.ssh/config.",
            )
        last = lines[-1] if lines else "the connection ended"
        return Unreachable(
            f"{self.address} cannot be reached: {last}", hint=f"Try it: {self.plain_command} true"
        )

    @property
    def plain_command(self) -> str:
        """How a person reaches it without vmctl."""
        port = f" -p {self.port}" if self.port else ""
        return f"ssh{port} {self.address}"

    @property
    def _known_name(self) -> str:
        return f"'[{self.host}]:{self.port}'" if self.port not in (0, 22) else self.host
