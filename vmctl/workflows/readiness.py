"""From RUNNING to a machine that can train: each rung is waited for, named and timed.

What the VM tells of itself comes over one command that runs there all the while; set-up goes on
beside it, so that neither waits for the other.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.driver import Driver
from vmctl.domain.errors import NotFound, Unreachable
from vmctl.domain.events import Advanced, Event, Finished, Noted, Started, Story, Warned
from vmctl.domain.image import Image, brings_driver, brings_torch
from vmctl.domain.instance import Instance, Status
from vmctl.domain.readiness import Diagnosis, Ladder, Observed, Rung, diagnose
from vmctl.domain.serial import script_code, script_lines
from vmctl.gce.compute import Compute
from vmctl.ssh.connection import Connection
from vmctl.ssh.keys import ensure_keypair
from vmctl.ssh.openssh import OpenSSH
from vmctl.ssh.watching import Watching
from vmctl.workflows.errand import Errand
from vmctl.workflows.letting_in import Entrance, went
from vmctl.workflows.login import renew_key
from vmctl.workflows.session import remember_instance, target_of
from vmctl.workflows.setup import prepare_machine
from vmctl.workflows.waiting import until

RUNG_LIMIT_S = 900.0  # images without a driver build it at first boot: 3 to 8 minutes
NEWS_S = 0.1
EVIDENCE_LINES = 6
SCRIPT_ITEMS = ("startup-script", "startup-script-url")


@dataclass(frozen=True, slots=True)
class Readiness:
    """A machine that answers, what it said about its GPUs, and when each rung was reached."""

    instance: Instance
    driver: str | None
    simulated: bool = False
    ladder: Ladder = field(default_factory=Ladder)


def preload() -> None:
    """Import what talks to the VM while Google works: it takes a third of a second."""
    from importlib import import_module

    threading.Thread(
        target=import_module, args=("fabric",), name="preload fabric", daemon=True
    ).start()


def make_ready(
    project: Project, compute: Compute, instance: Instance, clock: Clock, began: float | None = None
) -> Story[Readiness]:
    """Climb from a machine that Google has made or started to one that can train.

    `began` is when it was asked for, on clock.monotonic(). Raises HostKeyChanged, or the error
    that names the missing rung, its culprit and one fix.
    """
    climb = _Climb(project, compute, clock, clock.monotonic() if began is None else began)
    return (yield from climb.make_ready(instance))


class _Climb:
    """One way up; it knows what was reached and when."""

    def __init__(self, project: Project, compute: Compute, clock: Clock, began: float) -> None:
        self.project = project
        self.compute = compute
        self.clock = clock
        self.began = began
        self.ladder = Ladder()
        self.image = Image.parse(project.vm.image)

    def told(self, rung: Rung, note: str) -> None:
        """A rung was reached just now."""
        self.ladder = self.ladder.with_rung(rung, self.clock.monotonic() - self.began, note)

    def make_ready(self, instance: Instance) -> Story[Readiness]:
        self.told(Rung.OPERATION, "")
        instance = yield from self._running(instance)
        self.told(Rung.RUNNING, "")
        started = self.clock.monotonic()
        yield Started("ssh", f"Waiting for SSH on {instance.name}")
        instance = yield from renew_key(self.project, self.compute, instance, self.clock)
        gpus = instance.gpu.count if instance.gpu else 0
        observed = Observed(
            instance.name,
            instance.zone,
            user=self.project.login_user,
            gpus=gpus,
            has_script=any(item in instance.metadata for item in SCRIPT_ITEMS),
            torch_expected=brings_torch(self.image),
            driver_expected=brings_driver(self.image),
        )
        entrance = Entrance(self.project, self.compute, self.clock, self.told)
        remote = yield from entrance.open(instance, observed)
        target = target_of(self.project, instance, ensure_keypair())
        remember_instance(self.project, instance, target, self.clock)
        where = f"{target.user}@{target.address}"
        yield Finished("ssh", f"SSH answers, host key verified: {where}",
                       self.clock.monotonic() - started)  # fmt: skip
        inside = _Inside(self, instance, observed)
        while True:
            try:
                driver = yield from inside.wait(remote)
                break
            except Unreachable as error:
                # a driver's installation may restart the network, or the whole VM
                yield Advanced("driver", f"{error.message.rstrip('.')}: coming back")
                self._still_there(instance)
                remote = yield from entrance.open(instance, observed)
            finally:
                if isinstance(remote, Connection):
                    remote.close()
        if driver is None:
            return Readiness(instance, None, ladder=self.ladder)
        return Readiness(instance, driver.version, driver.is_simulated, self.ladder)

    def _running(self, instance: Instance) -> Story[Instance]:
        """Google's operation may end a moment before the VM is RUNNING and has its address."""
        if instance.status is Status.RUNNING:
            return instance
        now = yield from until(
            self.compute, instance, lambda vm: not vm.status.is_coming, self.clock, "boot"
        )
        if now is None or now.status is not Status.RUNNING:
            why = went(self.compute, now) if now else "It was deleted meanwhile."
            seen = Observed(instance.name, instance.zone, went=why)
            raise Diagnosis(Rung.RUNNING, why, "vmctl up").error(seen)
        return now

    def _still_there(self, instance: Instance) -> None:
        now = self.compute.get_instance(instance.zone, instance.name)
        if now is None or not (now.status is Status.RUNNING or now.status.is_coming):
            why = went(self.compute, now) if now else "It was deleted meanwhile."
            seen = Observed(instance.name, instance.zone, went=why)
            missing = Rung.DRIVER if self.ladder.has(Rung.STARTUP) else Rung.STARTUP
            raise Diagnosis(missing, why, "vmctl up").error(seen)


class _Inside:
    """The rungs that the VM itself tells of, with set-up beside them."""

    def __init__(self, climb: _Climb, instance: Instance, observed: Observed) -> None:
        self.climb = climb
        self.clock = climb.clock
        self.instance = instance
        self.observed = observed
        self.limit = climb.clock.monotonic() + RUNG_LIMIT_S
        self.changed_at = climb.clock.monotonic()
        self.prepared = False
        self.heard = False
        self.over = False
        self.said = ""
        self.shown: set[Rung] = set()
        self.waiting_for: Rung | None = None
        self.rung_began = climb.clock.monotonic()

    def wait(self, remote: OpenSSH | Connection) -> Story[Driver | None]:
        """What nvidia-smi says once every rung is reached; None where no driver is to come.

        Raises Unreachable when the link is lost: then it may be called again.
        """
        setup: Errand[list[Event]] | None = None
        if not self.prepared:
            yield Started("setup", "Preparing the VM")
            setup = Errand(lambda: _played(prepare_machine(remote, clock=self.clock)))
        watching = self._watch(remote)
        try:
            while True:
                try:
                    self._hear(watching)
                except NotFound:  # no python3 there yet: set-up brings it
                    if setup is None:
                        raise
                    setup.result()
                    watching = self._watch(remote)
                if setup is not None and setup.is_done:
                    yield from (event for event in setup.result() if _is_news(event))
                    setup, self.prepared = None, True
                self._reach()
                yield from self._tell()
                missing = self._missing()
                if missing is None or (self.prepared and (yield from self._does_without(missing))):
                    return self.observed.driver if self.observed.driver_answers else None
                self._doubt(missing)
        finally:
            watching.close()

    def _watch(self, remote: OpenSSH | Connection) -> Watching:
        self.heard = self.over = False
        return Watching(remote, {"gpus": self.observed.gpus, "torch": bool(self.observed.gpus)})

    def _hear(self, watching: Watching) -> None:
        if self.over:
            self.clock.sleep(NEWS_S)
            return
        try:
            report = watching.news()
        except EOFError:
            self.over = True
            return
        if report is not None:
            self._saw(report)
        else:
            self.clock.sleep(NEWS_S)

    def _saw(self, report: Mapping[str, Any]) -> None:
        self.heard = True
        seen = self.observed.seen(report)
        if seen.has_script and seen.startup != "activating" and seen.script_code is None:
            seen = replace(seen, script_code=self._script_code())
        if seen != self.observed:
            self.observed, self.changed_at = seen, self.clock.monotonic()

    def _script_code(self) -> int | None:
        """How this boot's start-up script ended, by the serial port; None where it does not say."""
        return script_code(self.climb.compute.serial_output(self.instance))

    def _reach(self) -> None:
        """Note what was reached."""
        seen, climb = self.observed, self.climb
        scripts_done = self.heard and seen.startup != "activating" and not seen.script_code
        if scripts_done and self.prepared:
            climb.told(Rung.STARTUP, "")
        if not seen.gpus or not seen.driver_answers:
            return
        simulated = seen.driver is not None and seen.driver.is_simulated
        climb.told(Rung.DRIVER, "simulated" if simulated else "")
        if seen.torch and diagnose(seen, Rung.TORCH, 0.0, RUNG_LIMIT_S) is None:
            climb.told(Rung.TORCH, seen.torch.note)

    def _missing(self) -> Rung | None:
        rungs = [Rung.STARTUP, *([Rung.DRIVER, Rung.TORCH] if self.observed.gpus else [])]
        return next((rung for rung in rungs if not self.climb.ladder.has(rung)), None)

    def _tell(self) -> Story[None]:
        """What is waited for now, in words that change as the VM reports; what was reached."""
        seen, ladder = self.observed, self.climb.ladder
        for rung in (Rung.STARTUP, Rung.DRIVER, Rung.TORCH):
            if rung in self.shown or not ladder.has(rung):
                continue
            self.shown.add(rung)
            waited = rung is self.waiting_for
            if waited or (rung is Rung.DRIVER) or (rung is Rung.TORCH and _has_torch(seen)):
                seconds = self.clock.monotonic() - self.rung_began if waited else None
                yield Finished(str(rung), _found(seen, rung), seconds)
            if rung is Rung.DRIVER and seen.driver and seen.driver.is_simulated:
                yield Noted("The GPU is simulated: jobs run on this computer's processors.")
        missing = self._missing()
        if missing is None or not self.prepared:
            return
        if missing is Rung.TORCH and self._torch_is_quick():
            return
        if self.waiting_for is not missing:
            self.waiting_for, self.rung_began = missing, self.clock.monotonic()
            yield Started(str(missing), f"Waiting for {_waiting_text(missing)}")
        if (said := _under_way(seen, missing)) != self.said:
            self.said = said
            if said:
                yield Advanced(str(missing), said)

    def _torch_is_quick(self) -> bool:
        """Where the GPU is simulated nothing is imported: not worth a line."""
        return self.observed.driver is not None and self.observed.driver.is_simulated

    def _does_without(self, missing: Rung) -> Story[bool]:
        """Whether to go on without a rung that the VM's image does not promise; it is told."""
        seen, image = self.observed, self.climb.project.vm.image
        if missing is Rung.DRIVER:
            if seen.driver_expected or seen.driver is not None or seen.busy or not self.heard:
                return False
            yield Warned(
                f"No driver answers on {seen.name} ({seen.driver_said}): the image {image} "
                "brings none. With one: vmctl down --delete, then vmctl up --image pytorch"
            )
            return True
        wrong = diagnose(seen, Rung.TORCH, 0.0, RUNG_LIMIT_S)
        if missing is not Rung.TORCH or wrong is None or seen.torch_expected:
            return False
        yield Warned(f"{wrong.culprit} {wrong.fix}")
        return True

    def _doubt(self, missing: Rung) -> None:
        """Raise what is wrong, once waiting makes no sense."""
        now = self.clock.monotonic()
        if not self.heard and now < self.limit:
            return
        waited = now - self.changed_at if now < self.limit else RUNG_LIMIT_S + 1
        wrong = diagnose(self.observed, missing, waited, RUNG_LIMIT_S)
        if wrong is not None:
            raise wrong.error(self._proven(missing))

    def _proven(self, missing: Rung) -> Observed:
        seen = self.observed
        if missing is not Rung.STARTUP:
            return seen
        log = self.climb.compute.serial_output(self.instance)
        lines = tuple(f"serial port: {line}" for line in script_lines(log)[-EVIDENCE_LINES:])
        return replace(seen, evidence=(*seen.evidence, *lines))


def _played(story: Story[Any]) -> list[Event]:
    """A story told to its end, away from the screen."""
    return list(story)


def _is_news(event: Event) -> bool:
    return not isinstance(event, Started)


def _has_torch(seen: Observed) -> bool:
    return seen.torch is not None and bool(seen.torch.version)


def _waiting_text(rung: Rung) -> str:
    return {
        Rung.STARTUP: "the end of the VM's startup-script",
        Rung.DRIVER: "NVIDIA's driver",
        Rung.TORCH: "torch to see CUDA",
    }[rung]


def _under_way(seen: Observed, rung: Rung) -> str:
    """What keeps a rung from being reached, as the VM reports it."""
    if rung is Rung.TORCH:
        return ""
    holder = f"{seen.lock} holds the package manager's lock" if seen.lock else ""
    if rung is Rung.STARTUP:
        return holder or "the startup-script is at work"
    why = f"nvidia-smi sees {len(seen.driver.names)} of {seen.gpus} GPUs" if seen.driver else ""
    return "; ".join(filter(None, [why or seen.driver_said, holder]))


def _found(seen: Observed, rung: Rung) -> str:
    if rung is Rung.TORCH and seen.torch is not None:
        return seen.torch.note
    if rung is Rung.DRIVER and seen.driver is not None:
        names = seen.driver.names
        name = names[0] if len(names) == 1 else f"{len(names)} x {names[0]}"
        return f"{name}, driver {seen.driver.version}"
    return "The startup-script is done"
