"""A connection to a server of the user's, under the user's own OpenSSH configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vmctl.domain.errors import AccessDenied
from vmctl.domain.login.ssh_server import ServerEndpoint
from vmctl.domain.login.ssh_target import GuestPlace
from vmctl.domain.settings.target_settings import TargetSettings
from vmctl.ssh.session.control_master import ControlMaster
from vmctl.ssh.session.openssh import OpenSSH

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")


def server_endpoint(target: TargetSettings) -> ServerEndpoint:
    """Where a target answers; nobody is asked."""
    own = Path.home() / ".ssh" / "config"
    return ServerEndpoint(
        target=target.name,
        host=target.host,
        user=target.user or "",
        port=target.port or 0,
        user_config=str(own) if own.is_file() else "",
        system_config=str(SYSTEM_CONFIG) if SYSTEM_CONFIG.is_file() else "",
        place=GuestPlace(
            is_server=True,
            workspaces=target.workspace,
            python=target.python or "",
            modules=target.slurm.modules,
        ),
    )


@dataclass(frozen=True, slots=True)
class LoginResult:
    """`opened`: False where a connection was open already, which was then kept."""

    target: str
    address: str
    opened: bool


def login(target: TargetSettings) -> LoginResult:
    """Log in with this terminal, where ssh asks for what it needs; all commands ride on it then.

    Raises Unreachable, HostKeyChanged or AccessDenied.
    """
    master = ControlMaster(server_endpoint(target))
    is_open = master.probe()
    if not is_open:
        master.close()
        try:
            master.login(target.keep_login)
        except AccessDenied as error:
            raise _refused_login(target, error) from error
    return LoginResult(target.name, target.address, not is_open)


def _refused_login(target: TargetSettings, error: AccessDenied) -> AccessDenied:
    """What to do after a login that was to ask, and did not help."""
    if "vmctl login" not in error.hint:
        return error  # a password would not help
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return AccessDenied(
            f"There is no terminal on which {target.address} could ask.",
            hint=f"At a terminal: vmctl login --on {target.name}",
        )
    return AccessDenied(
        f"{target.address} did not accept this login.",
        hint=f"Try again: vmctl login --on {target.name}; or ask its administrator",
    )


def open_server(target: TargetSettings, *, verify: bool = False) -> OpenSSH:
    """A connection to it, the warm one if there is one.

    Raises Unreachable, HostKeyChanged (an unknown key, too), AccessDenied where it asks for a
    password or accepts no key.
    """
    ssh = OpenSSH(server_endpoint(target))
    if verify:
        ssh.verify()
    else:
        ssh.open()
    return ssh
