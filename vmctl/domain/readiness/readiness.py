"""A stage that is not reached: the cause by what is observed, and one fix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vmctl.domain.errors import AccessDenied, Conflict, TimedOut, Unreachable, VmctlError
from vmctl.domain.machine.instance import NETWORK_TAG
from vmctl.domain.network.firewall import rule_to_make
from vmctl.domain.readiness.nvidia import Driver
from vmctl.domain.readiness.stages import Stage
from vmctl.domain.text import one_line, printable

GRACE_S = 10.0  # what is wrong for so long, while nothing runs that would fix it, stays wrong
REFUSED_GRACE_S = 5.0  # a key needs a moment to arrive


@dataclass(frozen=True, slots=True)
class Torch:
    """What the interpreter for jobs says of torch and CUDA."""

    version: str = ""  # empty: it has no torch
    cuda: str = ""  # that it was built for; empty: for none
    available: bool = False
    count: int = 0
    simulated: bool = False  # the driver is the stand-in, so torch was not asked
    driver_cuda: str = ""  # the newest that the driver speaks
    said: str = ""  # why it could not be imported, or does not see CUDA
    python: str = ""

    @staticmethod
    def parse(answer: Mapping[str, Any]) -> Torch:
        """From the VM's report, which has been checked."""
        words = ("version", "cuda", "driver_cuda", "said", "python")
        return Torch(
            **{name: one_line(answer[name] or "") for name in words},
            available=bool(answer["available"]),
            simulated=bool(answer["simulated"]),
            count=answer["count"] or 0,
        )

    @property
    def note(self) -> str:
        """What the stage says when it is reached."""
        if self.simulated:
            return f"torch {self.version}, CUDA simulated" if self.version else "simulated"
        if not self.version:
            return "no torch on the VM"
        return f"torch {self.version}, CUDA {self.cuda}"


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of a VM that is not ready yet; None where nobody has looked."""

    name: str
    zone: str
    network: str = ""  # by its path
    user: str = ""
    gpus: int = 0
    has_script: bool = False  # a start-up script of the user's
    torch_expected: bool = False  # its image brings torch
    driver_expected: bool = False  # its image brings a driver, or installs one
    stopped: str = ""  # it is not RUNNING any more, and why
    allowed: bool | None = None  # whether a firewall rule lets SSH in
    refused: bool = False  # sshd answers and does not let our key in
    os_login: bool = False
    agent_failed: bool = False
    starting: bool = False  # the operating system has not finished its start
    startup: str = ""  # "activating" while the start-up script runs
    script_code: int | None = None  # with which it ended
    lock: str = ""  # who holds the package manager's lock
    driver: Driver | None = None
    driver_said: str = ""
    cards: int | None = None  # NVIDIA's, on the VM's bus
    torch: Torch | None = None
    evidence: tuple[str, ...] = ()

    def seen(self, report: Mapping[str, Any]) -> Observation:
        """With what the VM itself reports, which has been checked."""
        answer = report["driver"] or {"code": None, "said": None}
        output = printable(answer["said"] or "")
        driver = Driver.parse(output) if answer["code"] == 0 else None
        lines = [line for line in output.splitlines() if line.strip()]
        return replace(
            self,
            starting=report["starting"],
            startup=one_line(report["startup"] or ""),
            lock=one_line(report["lock"] or ""),
            driver=driver,
            driver_said="" if driver else one_line(lines[-1] if lines else ""),
            cards=report["cards"],
            torch=Torch.parse(report["torch"]) if report["torch"] else None,
            evidence=tuple(map(one_line, report["log"] or ())),
        )

    @property
    def driver_answers(self) -> bool:
        """Whether nvidia-smi sees every GPU."""
        return self.driver is not None and len(self.driver.names) >= self.gpus

    @property
    def busy(self) -> bool:
        """Whether something runs on the VM that may yet bring what is missing."""
        return self.starting or self.startup == "activating" or bool(self.lock)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The stage that is missing, the culprit in one sentence, and the one thing to do."""

    stage: Stage
    culprit: str
    fix: str
    kind: type[VmctlError] = Conflict

    def error(self, observed: Observation) -> VmctlError:
        """As an error: its exit code is its kind's, the evidence goes along."""
        found = self.kind(
            f"{observed.name} is not ready: {self.stage.text} is missing. {self.culprit}",
            hint=self.fix,
        )
        found.evidence = observed.evidence
        return found


def diagnose(
    observed: Observation, stage: Stage, waited_s: float, limit_s: float
) -> Diagnosis | None:
    """Why a stage is not reached; None as long as waiting for it makes sense.

    `waited_s` is how long nothing has changed in what is observed; past `limit_s` in all there
    is always an answer, the likeliest one.
    """
    if observed.stopped:
        return Diagnosis(stage, observed.stopped, "vmctl up")
    over = waited_s > limit_s
    match stage:
        case Stage.PORT:
            return _port(observed, waited_s, limit_s, over=over)
        case Stage.KEY:
            return _key(observed, waited_s, limit_s, over=over)
        case Stage.STARTUP:
            return _startup(observed, limit_s, over=over)
        case Stage.DRIVER:
            return _driver(observed, waited_s, limit_s, over=over)
        case Stage.TORCH:
            return _torch(observed, limit_s, over=over)
    return None


def _port(seen: Observation, waited_s: float, limit_s: float, *, over: bool) -> Diagnosis | None:
    if seen.allowed is False and waited_s > GRACE_S:
        return Diagnosis(
            Stage.PORT,
            "No firewall rule of its network allows tcp:22.",
            f"{rule_to_make(seen.network)} --target-tags {NETWORK_TAG}",
            Unreachable,
        )
    if not over:
        return None
    though = ", though the firewall allows SSH" if seen.allowed else ""
    return Diagnosis(
        Stage.PORT,
        f"Nothing answers at its SSH port after {_span(limit_s)}{though}: "
        "its boot hangs, or your own network blocks SSH.",
        "Try another network, or restart it: vmctl down && vmctl up",
        TimedOut,
    )


def _key(seen: Observation, waited_s: float, limit_s: float, *, over: bool) -> Diagnosis | None:
    if seen.refused and seen.os_login and waited_s > REFUSED_GRACE_S:
        return Diagnosis(
            Stage.KEY,
            "OS Login is on (enable-oslogin=TRUE): Google then ignores keys in metadata.",
            f"gcloud compute instances add-metadata {seen.name} --zone {seen.zone} "
            "--metadata enable-oslogin=FALSE",
            AccessDenied,
        )
    if seen.agent_failed and waited_s > REFUSED_GRACE_S:
        return Diagnosis(
            Stage.KEY,
            "Google's guest agent on it has failed: no keys are written there.",
            "Restart it: vmctl down && vmctl up",
            AccessDenied,
        )
    if not over:
        return None
    if not seen.refused:
        return Diagnosis(
            Stage.KEY,
            f"It has not shown its host keys, or no SSH server, after {_span(limit_s)}: "
            "Google's guest agent may not run.",
            "Restart it: vmctl down && vmctl up",
            TimedOut,
        )
    return Diagnosis(
        Stage.KEY,
        f"sshd has refused vmctl's key for the user {seen.user} for {_span(limit_s)}: Google's "
        "guest agent may not run.",
        "Restart it: vmctl down && vmctl up",
        AccessDenied,
    )


def _startup(seen: Observation, limit_s: float, *, over: bool) -> Diagnosis | None:
    if seen.script_code:
        return Diagnosis(
            Stage.STARTUP,
            f"Its startup-script ended with exit status {seen.script_code}.",
            f"Fix it: gcloud compute instances add-metadata {seen.name} --zone {seen.zone} "
            "--metadata-from-file startup-script=FILE; then: vmctl down && vmctl up",
        )
    if seen.has_script and seen.startup == "failed":
        return Diagnosis(
            Stage.STARTUP,
            "google-startup-scripts.service, which runs its startup-script, has failed.",
            "Look: vmctl exec -- sudo journalctl -u google-startup-scripts",
        )
    if not over:
        return None
    script = seen.startup == "activating"
    what = "Its startup-script" if script else "vmctl's set-up of it"
    return Diagnosis(
        Stage.STARTUP,
        f"{what} is still running after {_span(limit_s)}.{_held(seen)}",
        _wait_or_look(seen, "sudo journalctl -u google-startup-scripts" if script else "ps fx"),
        TimedOut,
    )


def _driver(seen: Observation, waited_s: float, limit_s: float, *, over: bool) -> Diagnosis | None:
    if seen.driver_answers or not (over or (waited_s > GRACE_S and not seen.busy)):
        return None
    again = "Restart it on another host: vmctl down && vmctl up"
    if seen.driver is not None:
        has = len(seen.driver.names)
        why = f"nvidia-smi sees {has} of {seen.gpus} GPUs"
        if seen.cards is not None and seen.cards >= seen.gpus:
            why += f", though {seen.cards} are on the VM's bus: a GPU has failed"
        return Diagnosis(Stage.DRIVER, f"{why}.", again)
    output = seen.driver_said.rstrip(".") or "nvidia-smi prints nothing"
    if over and seen.busy:
        return Diagnosis(
            Stage.DRIVER,
            f"The driver is not installed after {_span(limit_s)} ({output}).{_held(seen)}",
            _wait_or_look(seen, "systemctl list-jobs"),
            TimedOut,
        )
    if seen.cards == 0:
        return Diagnosis(Stage.DRIVER, f"The VM has no NVIDIA card on its bus ({output}).", again)
    return Diagnosis(
        Stage.DRIVER,
        f"No driver answers, and nothing installs one ({output}).",
        "Recreate it from its image: vmctl down --delete, then vmctl up",
    )


def _torch(seen: Observation, limit_s: float, *, over: bool) -> Diagnosis | None:
    torch = seen.torch
    fresh = "Recreate it: vmctl down --delete, then vmctl up --image pytorch"
    if torch is None:
        if not over:
            return None
        return Diagnosis(
            Stage.TORCH, f"torch is not imported after {_span(limit_s)}.",
            "Check its disk load: vmctl exec -- vmstat 1 5", TimedOut,
        )  # fmt: skip
    if torch.simulated:
        return None
    if not torch.version:
        if not torch.said:
            return None  # an image without torch: the user's own choice
        return Diagnosis(Stage.TORCH, f"{torch.python} cannot import torch: {torch.said}.", fresh)
    if torch.available and torch.count >= seen.gpus:
        return None
    if torch.available:
        return Diagnosis(
            Stage.TORCH, f"torch sees {torch.count} of {seen.gpus} GPUs.",
            "Check whether CUDA_VISIBLE_DEVICES hides one: vmctl exec -- env",
        )  # fmt: skip
    if not torch.cuda:
        return Diagnosis(
            Stage.TORCH,
            f"torch {torch.version} at {torch.python} is a build without CUDA.",
            f"vmctl exec -- {torch.python} -m pip install --force-reinstall torch torchvision",
        )
    if _older(torch.driver_cuda, torch.cuda):
        return Diagnosis(
            Stage.TORCH,
            f"The driver supports CUDA {torch.driver_cuda}, torch {torch.version} needs "
            f"{torch.cuda}.",
            fresh,
        )
    reason = f": {torch.said}" if torch.said else ""
    return Diagnosis(Stage.TORCH, f"torch {torch.version} sees no CUDA{reason}.", fresh)


def _held(seen: Observation) -> str:
    return f" {seen.lock} holds the package manager's lock." if seen.lock else ""


def _wait_or_look(seen: Observation, command: str) -> str:
    if seen.lock:
        return "Wait for it and run again: vmctl up"
    return f"See what it is doing: vmctl exec -- {command}"


def _older(have: str, needed: str) -> bool:
    """Whether a driver's CUDA is of an older major version than torch's."""
    majors = [text.partition(".")[0] for text in (have, needed)]
    return all(major.isdigit() for major in majors) and int(majors[0]) < int(majors[1])


def _span(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 120 else f"{seconds:g} s"
