"""What vmctl does, said with gcloud, ssh, rsync and tmux: for those who want to know, or to leave.

Each step is one command line and why it is there. They do the same, without what makes vmctl's
own way safe or quick: they compare no checksums, keep no snapshot and follow no change of address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vmctl.domain.command import command, quote_path
from vmctl.domain.machine import MachineType
from vmctl.domain.plan import MachinePlan

LONGEST_VALUE = 300  # characters of a metadata item that stands on the line itself
LONGEST_LINE = 200
_DELIMITERS = "~|;!@#%\x1f"  # single ones: a value's last letter cannot begin one
_TMUX = "tmux -L vmctl"


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
        return f"# {self.why}\n{line}"


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
        """How rsync is told about it."""
        return ("-e", str(command(*self.ssh))) if self.through_iap else ()

    @property
    def folder(self) -> str:
        """The project's folder there, relative to the home."""
        return self.workspace.removeprefix("~/")


# -- the machine -----------------------------------------------------------------------------


def long_values(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata items that gcloud better reads from files."""
    return {
        key: text
        for key, text in metadata.items()
        if "\n" in text.strip("\n") or len(text) > LONGEST_VALUE
    }


def create(
    plan: MachinePlan,
    metadata: Mapping[str, str],
    files: Mapping[str, str],
    google_project: str,
    other_zones: Sequence[str] = (),
) -> tuple[Step, ...]:
    """A VM as `vmctl up` makes it; `files` says where the long ones of its metadata items are."""
    where = (f"--zone={plan.zone}", *([f"--project={google_project}"] if google_project else []))
    short = {key: text for key, text in metadata.items() if key not in files}
    gpu = plan.gpu and f"--accelerator=type={plan.gpu.accelerator},count={plan.gpu.count}"
    ssd = plan.machine.has_local_ssd
    words = [
        f"--machine-type={plan.machine.name}",
        *([gpu] if gpu else []),
        f"--image-project={plan.image.project}",
        f"--image-family={plan.image.family}",
        f"--boot-disk-size={plan.disk_gb}GB",
        f"--boot-disk-type={plan.disk_type}",
        *_network(plan),
        f"--provisioning-model={'SPOT' if plan.spot else 'STANDARD'}",
        "--maintenance-policy=TERMINATE",
        "--no-restart-on-failure",
        f"--max-run-duration={plan.max_run_s}s",
        "--instance-termination-action=STOP",
        *(["--discard-local-ssds-at-termination-timestamp=true"] if ssd else []),
        "--no-service-account",
        "--no-scopes",
        "--no-shielded-secure-boot",
        "--shielded-vtpm",
        "--shielded-integrity-monitoring",
        f"--labels={_pairs(plan.labels)}",
        f"--tags={','.join(plan.tags)}",
        f"--metadata={_delimited(short)}",
        *([f"--metadata-from-file={_pairs(files)}"] if files else []),
    ]
    elsewhere = f" (out of capacity there? then in {', '.join(other_zones)})" if other_zones else ""
    return (
        Step(
            f"the machine, which Google itself stops after {plan.max_run_s / 3600:g} h{elsewhere}",
            ("gcloud", "compute", "instances", "create", plan.name, *where, *words),
        ),
        Step(
            "its disk is findable by the same labels",
            ("gcloud", "compute", "disks", "add-labels", plan.name, *where,
             f"--labels={_pairs(plan.labels)}"),
        ),
    )  # fmt: skip


def start(place: Place) -> tuple[Step, ...]:
    """A stopped VM comes back."""
    return (
        Step(
            "when it is stopped: start it again (its address changes)",
            ("gcloud", "compute", "instances", "start", place.name, *place.where),
        ),
    )


def is_up(place: Place) -> tuple[Step, ...]:
    """What `up` waits for."""
    return (_first_login(place, "nvidia-smi"),)


def stop(place: Place, machine_type: str) -> tuple[Step, ...]:
    """The meter stops; the disk stays."""
    ssd = ["--discard-local-ssd=true"] if MachineType(machine_type).has_local_ssd else []
    return (
        Step(
            "processors and GPUs cost nothing any more, the disk does",
            ("gcloud", "compute", "instances", "stop", place.name, *place.where, *ssd),
        ),
    )


def delete(place: Place) -> tuple[Step, ...]:
    """Nothing is left."""
    return (
        Step(
            "the VM and its boot disk go for good",
            ("gcloud", "compute", "instances", "delete", place.name, *place.where, "--quiet"),
        ),
    )


# -- files -----------------------------------------------------------------------------------


def push(place: Place, exclude: Sequence[str]) -> tuple[Step, ...]:
    """The project's folder goes there."""
    rules = [f"--exclude={rule}" for rule in (*exclude, ".git/", ".venv/", "venv/")]
    return (
        *_named(place),
        _there("the project's folder on the VM", place, f"mkdir -p {quote_path(place.folder)}"),
        Step(
            "what differs goes there; --delete would also delete what your runs have made",
            (
                "rsync",
                "-az",
                *place.rsync_shell,
                "--filter=:- .gitignore",
                *rules,
                "./",
                f"{place.host}:{place.folder}/",
            ),
        ),
    )


def fetch(place: Place, paths: Sequence[str], to: str) -> tuple[Step, ...]:
    """Files come back; a cut transfer goes on where it was cut."""
    steps = [*_named(place)]
    for path in paths:
        remote = path if path.startswith(("~/", "/")) else f"{place.folder}/{path}"
        remote = remote.removeprefix("~/")
        here = f"{to.rstrip('/')}/{path.rstrip('/').rpartition('/')[2]}"
        steps += [
            Step(
                f"{path} comes here",
                ("rsync", "-a", "--partial", *place.rsync_shell, f"{place.host}:{remote}", to),
            ),
            _there("its checksum there …", place, f"sha256sum {quote_path(remote)}"),
            Step("… is the one here", ("sha256sum", here)),
        ]
    return tuple(steps)


# -- jobs, services, logins ------------------------------------------------------------------


def run(
    place: Place,
    *,
    job: str,
    line: str,
    directory: str,
    setup: Sequence[str],
    passed_on: Sequence[str],
) -> tuple[Step, ...]:
    """A job in tmux, which outlives the connection; `line` is its shell command."""
    folder = quote_path(f"{place.folder}/{directory}".rstrip("/"))
    names = f"; vmctl passes {', '.join(passed_on)} on from your shell" if passed_on else ""
    logged = f"cd {folder} && {line} 2>&1 | tee ~/{job}.log"
    return (
        *_named(place),
        *(
            _there("set-up (vmctl: once per machine and content)", place, f"cd {folder} && {step}")
            for step in setup
        ),
        _there(
            f"the job, in a tmux session that goes on without you{names}",
            place,
            f"{_TMUX} new-session -d -s {command(job)} {command('bash', '-lc', logged)}",
        ),
        Step(
            "its output; Ctrl-B D leaves it running",
            (*place.ssh, "-t", place.host, f"{_TMUX} attach -t {command(job)}"),
        ),
    )


def tunnel(
    place: Place, *, service: str, line: str, directory: str, local_port: int, remote_port: int
) -> tuple[Step, ...]:
    """A service of the VM's on a port of this computer; `line` is empty for a bare port."""
    folder = quote_path(f"{place.folder}/{directory}".rstrip("/"))
    began = (
        _there(
            f"{service} runs on the VM, reachable from the VM alone",
            place,
            f"{_TMUX} new-session -d -s {command(service)} "
            f"{command('bash', '-lc', f'cd {folder} && {line}')}",
        ),
    )
    return (
        *_named(place),
        *(began if line else ()),
        Step(
            f"http://localhost:{local_port} until Ctrl-C; vmctl also reconnects by itself",
            (*place.ssh, "-N", "-o", "ExitOnForwardFailure=yes",
             "-L", f"127.0.0.1:{local_port}:127.0.0.1:{remote_port}", place.host),
        ),
    )  # fmt: skip


def login(place: Place, line: str | None) -> tuple[Step, ...]:
    """A shell on the VM, or one command."""
    return (_first_login(place, line),)


def _first_login(place: Place, line: str | None) -> Step:
    more = [f"--command={line}"] if line is not None else []
    iap = ["--tunnel-through-iap"] if place.through_iap else []
    return Step(
        "log in; gcloud makes a key of its own, sends it there, and learns the VM's host keys",
        ("gcloud", "compute", "ssh", f"{place.user}@{place.name}", *place.where, *iap, *more),
    )


def _named(place: Place) -> tuple[Step, ...]:
    """The VM under a name that ssh, rsync and scp understand."""
    if place.through_iap:
        return (_first_login(place, "true"),)
    return (
        _first_login(place, "true"),
        Step(
            "a name for it in ~/.ssh/config; again after each start, for its address changes",
            ("gcloud", "compute", "config-ssh", f"--project={place.google_project}"),
        ),
    )


def _there(why: str, place: Place, line: str) -> Step:
    return Step(why, (*place.ssh, place.host, line))


def _network(plan: MachinePlan) -> list[str]:
    parts = []
    if plan.network or not plan.subnetwork:
        parts.append(f"network={plan.network or 'default'}")
    if plan.subnetwork:
        parts.append(f"subnet={plan.subnetwork}")
    if not plan.external_address:
        parts.append("no-address")
    if plan.machine.wants_gvnic:
        parts.append("nic-type=GVNIC")
    return [f"--network-interface={','.join(parts)}"]


def _pairs(values: Mapping[str, str]) -> str:
    return ",".join(f"{key}={text}" for key, text in values.items())


def _delimited(values: Mapping[str, str]) -> str:
    """Pairs as gcloud reads them, with a delimiter that no value holds."""
    delimiter = next(
        mark for mark in _DELIMITERS if not any(mark in text for text in values.values())
    )
    return f"^{delimiter}^" + delimiter.join(f"{key}={text}" for key, text in values.items())
