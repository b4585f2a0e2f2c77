"""The stages that the VM itself tells of: start-up, driver, torch; set-up goes on meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vmctl.domain.errors import NotFound, VmctlError
from vmctl.domain.events import Advanced, Finished, Info, Started, Story, Warned
from vmctl.domain.google.serial_log import driver_lines, script_code, script_lines
from vmctl.domain.machine.instance import Instance
from vmctl.domain.readiness.nvidia import Driver
from vmctl.domain.readiness.readiness import Observation, diagnose
from vmctl.domain.readiness.stages import Stage
from vmctl.domain.text import SetupReport
from vmctl.ssh.boot_reports import BootReports
from vmctl.ssh.session.remote import Remote
from vmctl.workflows.base.tasks import StoryTask
from vmctl.workflows.readiness.context import BringUp
from vmctl.workflows.readiness.ssh_admission import ensure_running
from vmctl.workflows.runs.setup import prepare_machine

if TYPE_CHECKING:
    from vmctl.workflows.sync.push import PushResult

STAGE_LIMIT_S = 900.0  # images without a driver build it at first boot: 3 to 8 minutes
NEWS_S = 0.1
HELD_UP_S = 5.0  # set-up takes a second when nothing holds it up
LOOK_GAP_S = 10.0
EVIDENCE_LINES = 6


class GuestStages:
    """Follows the VM's reports while set-up, and then a push, run in the background."""

    def __init__(
        self,
        bring_up: BringUp,
        instance: Instance,
        observed: Observation,
        pushing: Callable[[], Story[PushResult]] | None = None,
    ) -> None:
        self.bring_up = bring_up
        self.pushing = pushing
        self.push: StoryTask[PushResult] | None = None
        self.clock = bring_up.site.clock
        self.instance = instance
        self.observed = observed
        self.limit = bring_up.site.clock.monotonic() + STAGE_LIMIT_S
        self.changed_at = self.looked = bring_up.site.clock.monotonic()
        self.prepared = False
        self.has_report = False
        self.has_ended = False
        self.last_text = ""
        self.shown: set[Stage] = set()
        self.waiting_for: Stage | None = None
        self.stage_began = bring_up.site.clock.monotonic()

    def wait(self, remote: Remote) -> Story[Driver | None]:
        """What nvidia-smi says once every stage is reached; None where no driver is to come.

        Raises Unreachable when the link is lost: then it may be called again.
        """
        setup: StoryTask[SetupReport] | None = None
        if not self.prepared:
            setup = StoryTask(prepare_machine(remote, clock=self.clock))
        watching = self._watch(remote)
        try:
            while True:
                try:
                    self._poll(watching)
                except NotFound:  # no python3 there yet: set-up brings it
                    if setup is None:
                        raise
                    setup.result()
                    watching = self._watch(remote)
                if setup is not None:
                    yield from setup.events()
                    if setup.done():
                        setup.result()
                        yield from setup.events()
                        setup, self.prepared = None, True
                        self._begin_push()
                if self.push is not None:
                    yield from self.push.events()
                self._note_reached()
                yield from self._show_progress()
                missing = self.missing
                if missing is None or (
                    self.prepared and (yield from self._accept_missing(missing))
                ):
                    return self.observed.driver if self.observed.driver_answers else None
                self._raise_if_hopeless(missing)
                self._check_running(missing)
        finally:
            watching.close()

    def pushed(self) -> Story[PushResult | None]:
        """What was pushed meanwhile, if anything; it may take longer than the bring-up."""
        if self.push is None:
            return None
        while not self.push.done():
            yield from self.push.events()
            self.clock.sleep(NEWS_S)
        yield from self.push.events()
        return self.push.result()

    def _begin_push(self) -> None:
        if self.pushing is not None and self.push is None:
            self.push = StoryTask(self.pushing())

    def _watch(self, remote: Remote) -> BootReports:
        self.has_report = self.has_ended = False
        return BootReports(remote, {"gpus": self.observed.gpus, "torch": bool(self.observed.gpus)})

    def _poll(self, watching: BootReports) -> None:
        if self.has_ended:
            self.clock.sleep(NEWS_S)
            return
        try:
            report = watching.next_report()
        except EOFError:
            self.has_ended = True
            return
        if report is not None:
            self._apply_report(report)
        else:
            self.clock.sleep(NEWS_S)

    def _apply_report(self, report: Mapping[str, Any]) -> None:
        self.has_report = True
        seen = self.observed.seen(report)
        if seen.has_script and seen.startup != "activating" and seen.script_code is None:
            seen = replace(seen, script_code=self._script_code())
        if seen != self.observed:
            self.observed, self.changed_at = seen, self.clock.monotonic()

    def _script_code(self) -> int | None:
        """How this boot's start-up script ended, by the serial port; None where it does not say."""
        return script_code(self._serial())

    def _serial(self) -> str:
        try:
            return self.bring_up.site.compute.serial_output(self.instance)
        except VmctlError:  # not everybody may read it
            return ""

    def _note_reached(self) -> None:
        """Note what was reached."""
        seen, bring_up = self.observed, self.bring_up
        fine = diagnose(seen, Stage.STARTUP, 0.0, STAGE_LIMIT_S) is None
        if self.has_report and self.prepared and seen.startup != "activating" and fine:
            bring_up.reached(Stage.STARTUP, "")
        if not seen.gpus or not seen.driver_answers:
            return
        simulated = seen.driver is not None and seen.driver.is_simulated
        bring_up.reached(Stage.DRIVER, "simulated" if simulated else "")
        if seen.torch and diagnose(seen, Stage.TORCH, 0.0, STAGE_LIMIT_S) is None:
            bring_up.reached(Stage.TORCH, seen.torch.note)

    @property
    def missing(self) -> Stage | None:
        """The first stage that is not reached."""
        stages = [Stage.STARTUP, *([Stage.DRIVER, Stage.TORCH] if self.observed.gpus else [])]
        return next((stage for stage in stages if not self.bring_up.stage_log.has(stage)), None)

    def _show_progress(self) -> Story[None]:
        """What is waited for now, in words that change as the VM reports; what was reached."""
        seen, stage_log = self.observed, self.bring_up.stage_log
        for stage in (Stage.STARTUP, Stage.DRIVER, Stage.TORCH):
            if stage in self.shown or not stage_log.has(stage):
                continue
            self.shown.add(stage)
            waited = stage is self.waiting_for
            if waited or (stage is Stage.DRIVER) or (stage is Stage.TORCH and _has_torch(seen)):
                seconds = self.clock.monotonic() - self.stage_began if waited else None
                yield Finished(str(stage), _found(seen, stage), seconds)
            if stage is Stage.DRIVER and seen.driver and seen.driver.is_simulated:
                yield Info("The GPU is simulated: jobs run on this computer's processors.")
        missing = self.missing
        if missing is None:
            return
        if not self.prepared:
            if seen.lock and self.clock.monotonic() - self.stage_began > HELD_UP_S:
                yield from self._show("setup", f"Preparing the VM: {_holder(seen)}")
            return
        if missing is Stage.TORCH and self._torch_is_quick():
            return
        if self.waiting_for is not missing:
            self.waiting_for, self.stage_began = missing, self.clock.monotonic()
            yield Started(str(missing), f"Waiting for {_waiting_text(missing)}")
        yield from self._show(str(missing), _under_way(seen, missing))

    def _show(self, step: str, text: str) -> Story[None]:
        """What is new of a step."""
        if text and text != self.last_text:
            self.last_text = text
            yield Advanced(step, text)

    def _torch_is_quick(self) -> bool:
        """Where the GPU is simulated nothing is imported: not worth a line."""
        return self.observed.driver is not None and self.observed.driver.is_simulated

    def _accept_missing(self, missing: Stage) -> Story[bool]:
        """Whether to go on without a stage that the VM's image does not promise; with a warning."""
        seen, image = self.observed, self.bring_up.site.project.vm.image
        if missing is Stage.DRIVER:
            if seen.driver_expected or seen.driver is not None or seen.busy or not self.has_report:
                return False
            yield Warned(
                f"No driver answers on {seen.name} ({seen.driver_said}): the image {image} "
                "brings none. For one with a driver: vmctl down --delete, then vmctl up "
                "--image pytorch"
            )
            return True
        wrong = diagnose(seen, Stage.TORCH, 0.0, STAGE_LIMIT_S)
        if missing is not Stage.TORCH or wrong is None or seen.torch_expected:
            return False
        yield Warned(f"{wrong.culprit} {wrong.fix}")
        return True

    def _check_running(self, missing: Stage) -> None:
        """Now and then, whether it still runs: a link can die without a word."""
        now = self.clock.monotonic()
        if now - self.looked > LOOK_GAP_S:
            self.looked = now
            ensure_running(self.bring_up, self.instance, missing)

    def _raise_if_hopeless(self, missing: Stage) -> None:
        """Raise what is wrong, once waiting makes no sense."""
        now = self.clock.monotonic()
        if not self.has_report and now < self.limit:
            return
        waited = now - self.changed_at if now < self.limit else STAGE_LIMIT_S + 1
        wrong = diagnose(self.observed, missing, waited, STAGE_LIMIT_S)
        if wrong is not None:
            raise wrong.error(self._with_evidence(missing))

    def _with_evidence(self, missing: Stage) -> Observation:
        seen, log = self.observed, self._serial()
        lines = driver_lines(log) if missing is Stage.DRIVER else script_lines(log)
        log_lines = tuple(f"serial port: {line}" for line in lines[-EVIDENCE_LINES:])
        return replace(seen, evidence=(*seen.evidence, *log_lines))


def _has_torch(seen: Observation) -> bool:
    return seen.torch is not None and bool(seen.torch.version)


def _waiting_text(stage: Stage) -> str:
    return {
        Stage.STARTUP: "the end of the VM's startup-script",
        Stage.DRIVER: "NVIDIA's driver",
        Stage.TORCH: "torch to see CUDA",
    }[stage]


def _holder(seen: Observation) -> str:
    return f"{seen.lock} holds the package manager's lock" if seen.lock else ""


def _under_way(seen: Observation, stage: Stage) -> str:
    """What keeps a stage from being reached, as the VM reports it."""
    if stage is Stage.TORCH:
        return ""
    holder = _holder(seen)
    if stage is Stage.STARTUP:
        return holder or "the startup-script is running"
    why = f"nvidia-smi sees {len(seen.driver.names)} of {seen.gpus} GPUs" if seen.driver else ""
    return "; ".join(filter(None, [why or seen.driver_said, holder]))


def _found(seen: Observation, stage: Stage) -> str:
    if stage is Stage.TORCH and seen.torch is not None:
        return seen.torch.note
    if stage is Stage.DRIVER and seen.driver is not None:
        names = seen.driver.names
        name = names[0] if len(names) == 1 else f"{len(names)} x {names[0]}"
        return f"{name}, driver {seen.driver.version}"
    return "The startup-script is done"
