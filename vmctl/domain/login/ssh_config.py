"""What the user's own ssh reads about VMs: names to type, and the lines behind them.

Three files. `~/.ssh/config` gets a marked block with one Include. What it includes runs vmctl when
one of its names is connected to, and only then includes the third, which has the addresses: so ssh
reads where the VM is now, and a key that is about to expire has been renewed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmctl.domain.errors import InvalidInput
from vmctl.domain.login.ssh_target import Target
from vmctl.domain.names import slug

BEGIN = b"# >>> vmctl >>> (vmctl ssh-config --remove takes these lines away)\n"
BEGIN_OF_OURS = b"# >>> vmctl >>> (this file is vmctl's; vmctl ssh-config --remove takes it away)\n"
END = b"# <<< vmctl <<<\n"
ENDING = ".vmctl"
ALIVE_INTERVAL_S = 15
ALIVE_COUNT = 3
CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Host:
    """A name that ssh knows: which project's VM it is, and where that was seen last, if it runs."""

    name: str
    owner: str
    project: str
    local: bool
    google_project: str
    emulator_home: str = ""  # of a local one: which embedded Compute Engine
    target: Target | None = None
    key_hours: float = 24.0
    environment: Mapping[str, str] = field(
        default_factory=dict
    )  # what vmctl needs when ssh runs it

    @property
    def identity(self) -> tuple[str, str, bool, str, str]:
        """What distinguishes two hosts, whatever they are called."""
        return (self.owner, self.project, self.local, self.google_project, self.emulator_home)

    @classmethod
    def of_record(cls, name: str, record: Mapping[str, Any]) -> Host:
        """From what `record` made; raises KeyError, TypeError or ValueError."""
        target = record["target"]
        return cls(
            name=name,
            owner=str(record["owner"]),
            project=str(record["project"]),
            local=bool(record["local"]),
            google_project=str(record["google_project"]),
            emulator_home=str(record["emulator_home"]),
            target=Target(**target) if target is not None else None,
            key_hours=float(record["key_hours"]),
            environment={str(k): str(v) for k, v in record["environment"].items()},
        )


def names_for(host: Host) -> tuple[str, ...]:
    """The names that a VM may have, the shortest first: the first that is free is its."""
    ending = f".local{ENDING}" if host.local else ENDING
    full = (host.project, host.owner, slug(host.google_project))
    return tuple(".".join(full[:parts]) + ending for parts in (1, 2, 3))


def host_block(host: Host) -> str:
    """The lines of one name; without an address where the VM does not run."""
    if host.target is None:
        return f"# {host.name}: no running VM\n"
    target = host.target
    settings = {
        **target.settings,
        # what the user's `Host *` may say otherwise: the first value of a setting counts
        **({} if target.proxy else {"ProxyCommand": "none"}),
        "ProxyUseFdpass": "no",
        "PubkeyAuthentication": "yes",
        "PreferredAuthentications": "publickey",
        "AddressFamily": "any",
        "ConnectTimeout": str(max(CONNECT_TIMEOUT_S, target.connect_timeout_s)),
        "ServerAliveInterval": str(ALIVE_INTERVAL_S),
        "ServerAliveCountMax": str(ALIVE_COUNT),
    }
    lines = [f"    {name} {value}" for name, value in settings.items()]
    return "\n".join([f"Host {host.name}", *lines, ""])


def hosts_file(hosts: Iterable[Host]) -> str:
    """The file with the addresses."""
    return "\n".join(["# Written by vmctl; what you change here is lost.", *map(host_block, hosts)])


def entry_file(hosts: Iterable[Host], hook: Mapping[str, tuple[str, ...]], hosts_path: str) -> str:
    """The file that `~/.ssh/config` includes; `hook` is the command to run, by host name.

    Names are written out, never taken from what was typed: a shell reads the command.
    """
    lines = ["# Written by vmctl ssh-config; what you change here is lost."]
    for host in hosts:
        words = " ".join(map(_shell_word, hook[host.name]))
        lines.append(f'Match originalhost {host.name} exec "{words}"')
    return "\n".join([*lines, "Match all", f"    {include_line(hosts_path)}", ""])


def include_line(path: str) -> str:
    """An Include of exactly this file."""
    if found := re.search(r'[*?\[\]"%$\\\n]', path):
        raise InvalidInput(
            f"OpenSSH cannot include a file whose path holds {found[0]!r}: {path}",
            hint="Set VMCTL_HOME to another folder.",
        )
    return f'Include "{path}"'


def with_include(before: bytes | None, path: str) -> bytes:
    """The user's file with our block at its top; None: there was no file.

    Nothing else of it changes. Raises InvalidInput where the block was broken by hand.
    """
    rest = without_include(before) if before is not None else None
    begin = BEGIN_OF_OURS if rest is None else BEGIN
    return begin + f"{include_line(path)}\n".encode() + END + (rest or b"")


def without_include(now: bytes) -> bytes | None:
    """The user's file as it was before `with_include`; None: there was no file.

    What was added around our block meanwhile stays. Raises InvalidInput for a broken block.
    """
    for begin in (BEGIN, BEGIN_OF_OURS):
        start = now.find(begin)
        if start < 0:
            continue
        end = now.find(END, start)
        inside = now[start + len(begin) : end] if end >= 0 else b""
        if end < 0 or not re.fullmatch(rb'Include "[^"\n]*"\n', inside):
            raise InvalidInput(
                "vmctl's lines in the ssh configuration were changed by hand.",
                hint=f"Remove them yourself, from '{begin.decode().strip()}' to "
                f"'{END.decode().strip()}'.",
            )
        rest = now[:start] + now[end + len(END) :]
        return None if begin is BEGIN_OF_OURS and not rest else rest
    return now


def _shell_word(word: str) -> str:
    """A word for the shell that `Match exec` starts, inside ssh_config's double quotes."""
    if '"' in word or "\n" in word:
        raise InvalidInput(
            f"OpenSSH does not accept a command with this word: {word!r}",
            hint="Install vmctl, and set VMCTL_HOME, under a path without quotes.",
        )
    escaped = re.sub(r"([^A-Za-z0-9_@+=:,./-])", r"\\\1", word)
    return escaped.replace("%", "%%")
