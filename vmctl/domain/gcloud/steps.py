"""Steps in other programs' words: a command line, why it is there, and the VM it is about."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.domain.command import command
from vmctl.domain.text import one_line

LONGEST_LINE = 200


@dataclass(frozen=True, slots=True)
class Step:
    """One command of this computer's, and what it is for."""

    why: str
    argv: tuple[str, ...]

    @property
    def text(self) -> str:
        """For a POSIX shell, under its comment; a long line is broken before its flags."""
        line = str(command(*self.argv))
        if self.argv[0] == "gcloud" and len(line) > LONGEST_LINE:
            words = [str(command(word)) for word in self.argv]
            flags = next(at for at, word in enumerate(self.argv) if word.startswith("--"))
            line = " \\\n    ".join([" ".join(words[:flags]), *words[flags:]])
        # what it names may come from anywhere, and a second line would be a command
        return f"# {one_line(self.why)}\n{line}"


@dataclass(frozen=True, slots=True)
class Place:
    """The VM as gcloud addresses it; `workspace` begins with `~/`."""

    name: str
    zone: str
    google_project: str
    user: str
    workspace: str
    through_iap: bool = False
    instance_id: str = ""

    @property
    def where(self) -> tuple[str, ...]:
        """The flags that every command about this VM takes."""
        return (f"--zone={self.zone}", f"--project={self.google_project}")

    @property
    def host(self) -> str:
        """What `gcloud compute config-ssh` calls it; that knows nothing of the proxy's VMs."""
        if self.through_iap:
            return f"{self.user}@{self.name}"
        return f"{self.user}@{self.name}.{self.zone}.{self.google_project}"

    @property
    def ssh(self) -> tuple[str, ...]:
        """The beginning of an ssh command line, with what config-ssh would else have said."""
        if not self.through_iap:
            return ("ssh",)
        tunnel = command(
            "gcloud", "compute", "start-iap-tunnel", self.name, "22", "--listen-on-stdin",
            "--verbosity=error", *self.where,
        )  # fmt: skip
        alias = ("-o", f"HostKeyAlias=compute.{self.instance_id}") if self.instance_id else ()
        return (
            "ssh", "-i", "~/.ssh/google_compute_engine",
            "-o", "UserKnownHostsFile=~/.ssh/google_compute_known_hosts",
            *alias, "-o", f"ProxyCommand={tunnel}",
        )  # fmt: skip

    @property
    def rsync_shell(self) -> tuple[str, ...]:
        """rsync's option for it."""
        return ("-e", str(command(*self.ssh))) if self.through_iap else ()

    @property
    def folder(self) -> str:
        """The project's folder there, relative to the home."""
        return self.workspace.removeprefix("~/")


def login_step(place: Place, line: str | None) -> Step:
    """gcloud's own way in, for a shell or one command."""
    more = [f"--command={line}"] if line is not None else []
    iap = ["--tunnel-through-iap"] if place.through_iap else []
    return Step(
        "log in; gcloud makes a key of its own, sends it there, and learns the VM's host keys",
        ("gcloud", "compute", "ssh", f"{place.user}@{place.name}", *place.where, *iap, *more),
    )


def config_ssh(place: Place) -> tuple[Step, ...]:
    """The VM under a name that ssh, rsync and scp understand."""
    if place.through_iap:
        return (login_step(place, "true"),)
    return (
        login_step(place, "true"),
        Step(
            "a name for it in ~/.ssh/config; again after each start, for its address changes",
            ("gcloud", "compute", "config-ssh", f"--project={place.google_project}"),
        ),
    )


def on_vm(why: str, place: Place, line: str) -> Step:
    """One shell line on the VM."""
    return Step(why, (*place.ssh, place.host, line))
