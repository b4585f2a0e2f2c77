"""The embedded Compute Engine: start it, stop it, ask it, point gcloud at it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vmctl.clock import Clock
from vmctl.cloud import emulator_launch, emulator_process
from vmctl.cloud.client import LOCAL_PROJECT
from vmctl.config import Project
from vmctl.domain.errors import Conflict, InvalidInput
from vmctl.domain.events import Finished, Info, Started, Story
from vmctl.workflows.base.site import ensure_emulator


@dataclass(frozen=True, slots=True)
class EmulatorResult:
    """Whether it runs, where it listens, and what it says about itself."""

    running: bool
    home: str
    url: str | None = None
    pid: int | None = None
    google_project: str | None = None
    mode: str | None = None
    note: str | None = None
    about: dict[str, object] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """For people."""
        if not self.running:
            return f"The embedded Compute Engine is off; its data is in {self.home}."
        lines = [f"The embedded Compute Engine answers at {self.url} (process {self.pid})."]
        lines.append(f"Machines: {self.mode}; project {self.google_project}; in {self.home}.")
        notes = (str(self.about.get("bounds", "")), self.note or "")
        return "\n".join([*lines, *filter(None, notes)])


@dataclass(frozen=True, slots=True)
class EmulatorEnv:
    """The environment variables that point gcloud at it."""

    variables: dict[str, str]

    @property
    def text(self) -> str:
        """Lines for a POSIX shell: eval "$(vmctl emulator env)"."""
        return "\n".join(
            f"export {name}={shlex.quote(value)}" for name, value in self.variables.items()
        )


@dataclass(frozen=True, slots=True)
class ForwardsResult:
    """The ports of this computer that machines reach, and the address at which they do."""

    address: str
    ports: tuple[int, ...]

    @property
    def text(self) -> str:
        """For people."""
        if not self.ports:
            return "Machines reach no port of this computer."
        named = ", ".join(f"{self.address}:{port}" for port in self.ports)
        return f"Machines reach ports of this computer as {named}."


@dataclass(frozen=True, slots=True)
class FaultsResult:
    """The bad days in force; each with its id and how often it has acted."""

    faults: tuple[dict[str, object], ...]
    ended: int = 0

    @property
    def text(self) -> str:
        """For people, one line each."""
        if not self.faults:
            return "No faults are in force."
        return "\n".join(
            f"{fault.get('id')}: {fault.get('kind')} "
            + " ".join(f"{k}={_to_word(v)}" for k, v in fault.items() if k not in _ABOUT)
            + f" (acted {fault.get('acted')} times)"
            for fault in self.faults
        )


_ABOUT = {"id", "kind", "acted", "met"}
AT_ONCE = ("preempt", "crash")


def start(
    time_kind: str | None = None, *, metadata_only: bool = False, clock: Clock | None = None
) -> Story[EmulatorResult]:
    """Start it, unless it runs already; `time_kind` is real, scaled:RATE or stepped.

    With `metadata_only` it boots no machines. Raises Conflict for one that runs with another
    clock, or with machines.
    """
    running = yield from ensure_emulator(clock or Clock(), time_kind, metadata_only=metadata_only)
    said = _describe(running)
    if time_kind is not None and said.about.get("clock") != time_kind:
        raise Conflict(
            f"The embedded Compute Engine runs with the clock {said.about.get('clock')}.",
            hint=f"vmctl emulator stop && vmctl emulator start --clock {time_kind}",
        )
    if metadata_only and running.mode != emulator_process.METADATA_ONLY:
        raise Conflict(
            "The embedded Compute Engine runs with machines.",
            hint="vmctl emulator stop && vmctl emulator start --metadata-only",
        )
    return said


def stop(*, clock: Clock | None = None) -> Story[EmulatorResult]:
    """Stop it with its machines; their disks stay. One that does not run is fine too."""
    clock = clock or Clock()
    folder = emulator_process.home()
    running = emulator_process.find(folder)
    if running:
        began = clock.monotonic()
        yield Started("emulator", "Stopping the embedded Compute Engine and its machines")
        emulator_launch.stop(running, folder, clock)
        yield Finished("emulator", "Stopped", clock.monotonic() - began)
    return EmulatorResult(running=False, home=str(folder))


def status() -> Story[EmulatorResult]:
    """Whether it runs; asking starts nothing."""
    folder = emulator_process.home()
    running = emulator_process.find(folder)
    yield from ()
    return _describe(running) if running else EmulatorResult(running=False, home=str(folder))


def env(project: Project, *, clock: Clock | None = None) -> Story[EmulatorEnv]:
    """What gcloud and other clients need in their environment; starts the emulator.

    gcloud reads its own variables and does the rest. The VMCTL_ ones are for other clients, to be
    given to them by their own names: none is set that changes what a program trusts elsewhere.
    """
    running = yield from ensure_emulator(clock or Clock())
    # a configuration of its own: the user's gcloud logins and settings stay untouched
    config = emulator_process.home() / "gcloud"
    config.mkdir(mode=0o700, parents=True, exist_ok=True)
    bundle = emulator_process.bundle(running, emulator_process.home())
    return EmulatorEnv(
        {
            "CLOUDSDK_CONFIG": str(config),
            **running.gcloud,
            **({emulator_process.REQUESTS_TRUST[0]: str(bundle)} if bundle else {}),
            "CLOUDSDK_CORE_PROJECT": project.google_project or running.project or LOCAL_PROJECT,
            "CLOUDSDK_COMPUTE_ZONE": project.vm.zone or f"{project.vm.region}-b",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "VMCTL_EMULATOR_URL": running.endpoint.removesuffix("compute/v1/"),
            "VMCTL_EMULATOR_CERTIFICATE": str(running.certificate),
            "VMCTL_EMULATOR_TOKEN_FILE": str(running.token_file),
        }
    )


def faults(
    kind: str | None = None,
    settings: Sequence[str] = (),
    *,
    clear: bool = False,
    clock: Clock | None = None,
) -> Story[FaultsResult]:
    """Put a fault in force, or end all of them; without either only tell which there are.

    `settings` are NAME=VALUE. A preemption and a crash happen at once, to one machine. Raises
    InvalidInput in the emulator's words for one it does not know.
    """
    running = yield from ensure_emulator(clock or Clock())
    ended = 0
    if clear:
        ended = int(emulator_process.admin(running, "DELETE", "faults").get("removed", 0))
    if kind in AT_ONCE:
        machine = _find_machine(running, kind, dict(_parse_setting(text) for text in settings))
        emulator_process.admin(running, "POST", kind, machine)
        yield Info(f"{kind}: {machine['instance']} in {machine['zone']}")
    elif kind is not None:
        fault = {"kind": kind, **dict(_parse_setting(text) for text in settings)}
        emulator_process.admin(running, "POST", "faults", fault)
    found = emulator_process.admin(running, "GET", "faults").get("faults", [])
    return FaultsResult(tuple(dict(fault) for fault in found), ended)


def forward(
    ports: Sequence[int] = (), *, end: bool = False, clock: Clock | None = None
) -> Story[ForwardsResult]:
    """Let machines reach ports of this computer's 127.0.0.1, or no longer; tell which they do.

    Until the emulator stops. Machines that are no sandboxes reach all of them anyway.
    """
    running = yield from ensure_emulator(clock or Clock())
    for port in ports:
        if end:
            emulator_process.admin(running, "DELETE", f"forwards/{port}")
        else:
            emulator_process.admin(running, "POST", "forwards", {"port": port})
    found = emulator_process.admin(running, "GET", "forwards").get("forwards", [])
    return ForwardsResult("10.0.2.2" if running.mode == "sandbox" else "127.0.0.1", tuple(found))


def _find_machine(
    running: emulator_process.EmulatorProcess, kind: str, settings: Mapping[str, object]
) -> dict[str, object]:
    """The running machine that a setting `instance` names, as the admin route wants it."""
    every = emulator_process.status(running).get("instances", [])
    there = [vm for vm in every if vm["status"] == "RUNNING"]
    names = ", ".join(sorted(vm["name"] for vm in there)) or "none"
    found = [
        vm
        for vm in there
        if vm["name"] == settings.get("instance")
        and settings.get("zone", vm["zone"]) == vm["zone"]
        and settings.get("project", vm["project"]) == vm["project"]
    ]
    if len(found) != 1 or not settings.keys() <= {"instance", "zone", "project"}:
        raise InvalidInput(
            f"'{kind}' needs instance=NAME. Running: {names}.",
            hint=f"vmctl emulator fault {kind} instance=NAME (and zone=ZONE, project=ID if needed)",
        )
    (vm,) = found
    return {"project": vm["project"], "zone": vm["zone"], "instance": vm["name"]}


@dataclass(frozen=True, slots=True)
class ClockResult:
    """What time it is for the embedded Compute Engine, and how its time passes."""

    kind: str  # real, scaled:RATE or stepped
    now: str

    @property
    def text(self) -> str:
        """For people."""
        return f"The embedded Compute Engine's clock is {self.kind}: {self.now}"


def advance_clock(
    advance_s: float | None = None, *, clock: Clock | None = None
) -> Story[ClockResult]:
    """Tell the emulator's time, after moving a stepped clock on where that is asked for.

    Raises InvalidInput in its words where the clock moves by itself.
    """
    running = yield from ensure_emulator(clock or Clock())
    if advance_s is not None:
        emulator_process.admin(running, "POST", "clock", {"advance_s": advance_s})
    said = emulator_process.status(running)
    return ClockResult(str(said.get("clock", "")), str(said.get("now", "")))


def _parse_setting(text: str) -> tuple[str, object]:
    """NAME=VALUE: a number, true or false as such, zones as a list, all else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidInput(
            f"'{text}' is not a fault setting.",
            hint="Write NAME=VALUE, such as: vmctl emulator fault stockout zone=europe-west1-b",
        )
    if name == "zonesAvailable":
        return name, [zone for zone in value.split(",") if zone]
    try:
        read = json.loads(value)
    except ValueError:
        return name, value
    return name, read if isinstance(read, bool | int | float | list) else value


def _to_word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _describe(running: emulator_process.EmulatorProcess) -> EmulatorResult:
    return EmulatorResult(
        running=True,
        home=str(emulator_process.home()),
        url=running.endpoint,
        pid=running.pid,
        google_project=running.project,
        mode=running.mode,
        note=running.note or None,
        about=running.about,
    )
