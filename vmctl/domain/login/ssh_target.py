"""Where a VM answers, and its OpenSSH configuration."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from vmctl.domain.errors import AccessDenied, HostKeyChanged, InvalidInput, Unreachable

# cut connections are noticed within 15 s; a tunnel asks for less
ALIVE_INTERVAL_S = 5
ALIVE_COUNT = 3
CONNECT_TIMEOUT_S = 5
PROXY_TIMEOUT_S = 30
PERSIST_S = 600


class Endpoint(Protocol):
    """Where a machine answers, as a connection needs to know it: a VM, or a user's server."""

    @property
    def alias(self) -> str:
        """The word that ssh is given for it."""

    @property
    def address(self) -> str:
        """Where it is, for a message."""

    @property
    def digest(self) -> str:
        """A short name for its control socket: another address is another connection."""

    @property
    def is_direct(self) -> bool:
        """Whether its port is reached from here without a proxy or a jump."""

    @property
    def connect_timeout_s(self) -> int:
        """How long a connection may take to be made."""

    @property
    def place(self) -> GuestPlace:
        """What the helpers there are started with."""

    def ssh_config(self, control_path: str) -> str:
        """The whole OpenSSH configuration for it; raises InvalidInput for an impossible path."""

    def failure(self, stderr: str) -> Unreachable | AccessDenied:
        """What OpenSSH's own failure (exit code 255) means, with the next command."""


class GuestPlace(NamedTuple):
    """Where the helpers find what they need on a machine; a server's is only looked for."""

    is_server: bool = False
    workspaces: str = "~/Workspace"  # the folder that holds the projects' folders
    python: str = ""  # a program there, for the helpers where its python3 is too old
    modules: tuple[str, ...] = ()  # of environment modules, which may bring a Python


VM_PLACE = GuestPlace()


@dataclass(frozen=True, slots=True)
class Target:
    """One VM's SSH endpoint: user and key, and the host keys it must show."""

    instance_id: str
    address: str
    port: int
    user: str
    key_file: str
    known_hosts: str
    proxy: str = ""  # the command that carries the connection where there is no direct one

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]*", self.instance_id):
            raise ValueError(f"not an instance id: {self.instance_id!r}")
        if not re.fullmatch(r"[0-9A-Za-z:][0-9A-Za-z:._-]*", self.address):
            raise ValueError(f"not an address: {self.address!r}")
        if not re.fullmatch(r"[a-z_][a-z0-9_-]*", self.user):
            raise ValueError(f"not a login name: {self.user!r}")
        if "\n" in self.proxy:
            raise ValueError(f"not a command: {self.proxy!r}")
        if not 0 < self.port < 65536:
            raise ValueError(f"not a port: {self.port}")

    @property
    def alias(self) -> str:
        """The name under which its host keys are pinned; a new VM has a new one."""
        return f"compute.{self.instance_id}"

    @property
    def digest(self) -> str:
        """A short name for its control socket: another address is another connection."""
        parts = (self.instance_id, self.address, str(self.port), self.user, self.key_file)
        all_parts = (*parts, self.known_hosts, self.proxy)
        return hashlib.sha256("\0".join(all_parts).encode()).hexdigest()[:16]

    @property
    def settings(self) -> dict[str, str]:
        """The lines of ssh_config that say where it is, whose key opens it, how it is verified.

        Raises InvalidInput for a path that OpenSSH cannot be given.
        """
        return {
            "HostName": self.address,
            "Port": str(self.port),
            "User": self.user,
            "HostKeyAlias": self.alias,
            "CheckHostIP": "no",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": quoted_path(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "UpdateHostKeys": "no",
            "VerifyHostKeyDNS": "no",
            "IdentityFile": quoted_path(self.key_file),
            "IdentitiesOnly": "yes",
            **({"ProxyCommand": self.proxy.replace("%", "%%")} if self.proxy else {}),
        }

    @property
    def connect_timeout_s(self) -> int:
        """How long a connection may take to be made; a proxy has to be started first."""
        return PROXY_TIMEOUT_S if self.proxy else CONNECT_TIMEOUT_S

    @property
    def is_direct(self) -> bool:
        """See Endpoint."""
        return not self.proxy

    @property
    def place(self) -> GuestPlace:
        """See Endpoint."""
        return VM_PLACE

    def ssh_config(self, control_path: str) -> str:
        """The whole OpenSSH configuration for one VM: nothing of the user's or the system's."""
        settings = {
            **self.settings,
            "IdentityAgent": "none",
            "PreferredAuthentications": "publickey",
            "BatchMode": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ConnectTimeout": str(self.connect_timeout_s),
            "ServerAliveInterval": str(ALIVE_INTERVAL_S),
            "ServerAliveCountMax": str(ALIVE_COUNT),
            "ControlMaster": "no",
            "ControlPath": quoted_path(control_path),
            "ControlPersist": str(PERSIST_S),
            "LogLevel": "ERROR",
        }
        lines = [f"    {name} {value}" for name, value in settings.items()]
        return "\n".join([f"Host {self.alias}", *lines, ""])

    def failure(self, stderr: str) -> Unreachable | AccessDenied:
        """See Endpoint."""
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        last = lines[-1] if lines else "the connection ended"
        if any(sign in stderr for sign in _CHANGED):
            return HostKeyChanged(
                f"The machine at {self.address} does not show the host key pinned for this VM.",
                hint="Another machine answers at its address; check: vmctl status",
            )
        if "Permission denied" in stderr:
            return AccessDenied(
                f"The VM does not accept vmctl's key for the user {self.user}.",
                hint="Renew it with: vmctl up",
            )
        if "start-iap-tunnel" in stderr or "iap_tunnel" in stderr:
            return _iap_failure(lines)
        if any(sign in stderr for sign in _NOT_NOW):
            return Unreachable(
                f"The VM does not answer at {self.address}:{self.port}.",
                hint="See whether it runs: vmctl status",
            )
        return Unreachable(
            f"The connection to the VM failed: {last}", hint="See whether it runs: vmctl status"
        )


def quoted_path(path: str) -> str:
    """A path as one word of ssh_config; '%' would otherwise begin a token."""
    if "\n" in path or "${" in path:
        raise InvalidInput(
            f"OpenSSH does not accept this path: {path!r}.",
            hint="Set VMCTL_HOME to another folder.",
        )
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def rsync_word(word: str) -> str:
    """A word of rsync's `-e` value, which knows quotes but no shell."""
    return '"' + word.replace('"', '""') + '"'


_CHANGED = ("IDENTIFICATION HAS CHANGED", "Host key verification failed", "host key is known for")
_NOT_NOW = ("timed out", "Connection refused", "No route", "Network is unreachable")


def _iap_failure(lines: list[str]) -> Unreachable | AccessDenied:
    """What Google's Identity-Aware Proxy, or gcloud before it, says."""
    line = next((line for line in lines if "ERROR" in line), lines[0])
    said = line.partition("ERROR: ")[2] or line
    if "4003" in said:
        from vmctl.domain.network.firewall import IAP_RANGE  # not at every start

        return Unreachable(
            f"Google's Identity-Aware Proxy does not reach the VM's SSH port: {said}",
            hint=f"Does it run, and does a firewall rule of its network let {IAP_RANGE} in? The "
            "command for what is missing: vmctl up",
        )
    if "Handshake status 40" in said or "4033" in said:
        return AccessDenied(
            f"Google's Identity-Aware Proxy does not let you in: {said}",
            hint="Ask for the role IAP-secured Tunnel User (roles/iap.tunnelResourceAccessor), "
            "and log in with gcloud: gcloud auth login",
        )
    return Unreachable(
        f"gcloud's tunnel through the Identity-Aware Proxy failed: {said}",
        hint="See whether the VM runs: vmctl status",
    )
