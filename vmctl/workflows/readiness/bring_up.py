"""From RUNNING to a machine that can train: each stage is waited for, named and timed.

What the VM tells of itself comes over one command that runs there all the while; set-up goes on
meanwhile, so that neither waits for the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmctl.config import Project
from vmctl.domain.errors import Unreachable
from vmctl.domain.events import Advanced, Finished, Started, Story
from vmctl.domain.machine.image import Image, brings_driver, brings_torch
from vmctl.domain.machine.instance import Instance, Status
from vmctl.domain.readiness.readiness import Observation
from vmctl.domain.readiness.stages import Stage, StageLog
from vmctl.ssh.identity.keypair import ensure_keypair
from vmctl.workflows.base.operations import wait_until
from vmctl.workflows.readiness.context import BringUp
from vmctl.workflows.readiness.guest_stages import GuestStages
from vmctl.workflows.readiness.ssh_admission import SshAdmission, ensure_running, vanished_error
from vmctl.workflows.session.login import renew_key
from vmctl.workflows.session.session import cache_instance, target_of

if TYPE_CHECKING:
    from vmctl.workflows.sync.push import PushResult

SCRIPT_ITEMS = ("startup-script", "startup-script-url")


@dataclass(frozen=True, slots=True)
class Readiness:
    """A machine that answers, what it reported of its GPUs, and when each stage was reached."""

    instance: Instance
    driver: str | None
    simulated: bool = False
    stage_log: StageLog = field(default_factory=StageLog)
    pushed: PushResult | None = None


def preload() -> None:
    """Import what talks to the VM while Google works: it takes a third of a second."""
    from importlib import import_module

    threading.Thread(
        target=import_module, args=("fabric",), name="preload fabric", daemon=True
    ).start()


def make_ready(
    bring_up: BringUp, instance: Instance, pushing: Callable[[], Story[PushResult]] | None = None
) -> Story[Readiness]:
    """Wait until a machine that Google has made or started can train, stage by stage.

    A push starts in the background as soon as the VM is set up. Raises HostKeyChanged, or the error
    that names the missing stage, its culprit and one fix.
    """
    bring_up.reached(Stage.OPERATION)
    instance = yield from _running(bring_up, instance)
    bring_up.reached(Stage.RUNNING)
    started = bring_up.site.clock.monotonic()
    yield Started("ssh", f"Waiting for SSH on {instance.name}")
    instance = yield from renew_key(bring_up.site, instance)
    observed = _expected(bring_up.site.project, instance)
    admission = SshAdmission(bring_up)
    remote = yield from admission.open(instance, observed)
    target = target_of(bring_up.site.project, instance, ensure_keypair())
    cache_instance(bring_up.site.project, instance, target, bring_up.site.clock)
    where = f"{target.user}@{target.address}"
    yield Finished("ssh", f"SSH answers, host key verified: {where}",
                   bring_up.site.clock.monotonic() - started)  # fmt: skip
    guest_stages = GuestStages(bring_up, instance, observed, pushing)
    while True:
        try:
            driver = yield from guest_stages.wait(remote)
            break
        except Unreachable as error:
            # a driver's installation may restart the network, or the whole VM
            yield Advanced("driver", f"{error.message.rstrip('.')}: reconnecting")
            ensure_running(bring_up, instance, guest_stages.missing or Stage.TORCH)
        finally:
            remote.release()
        remote = yield from admission.open(instance, observed)
    pushed = yield from guest_stages.pushed()
    return Readiness(
        instance,
        driver=driver.version if driver else None,
        simulated=driver is not None and driver.is_simulated,
        stage_log=bring_up.stage_log,
        pushed=pushed,
    )


def _expected(project: Project, instance: Instance) -> Observation:
    """What is known of a VM before anybody has looked."""
    image = Image.parse(project.vm.image)
    return Observation(
        instance.name,
        instance.zone,
        network=instance.network,
        user=project.login_user,
        gpus=instance.gpu.count if instance.gpu else 0,
        has_script=any(item in instance.metadata for item in SCRIPT_ITEMS),
        torch_expected=brings_torch(image),
        driver_expected=brings_driver(image),
    )


def _running(bring_up: BringUp, instance: Instance) -> Story[Instance]:
    """Google's operation may end a moment before the VM is RUNNING and has its address."""
    if instance.status is Status.RUNNING:
        return instance
    now = yield from wait_until(bring_up.site, instance, lambda vm: not vm.status.is_coming, "boot")
    if now is None or now.status is not Status.RUNNING:
        raise vanished_error(bring_up, instance, now, Stage.RUNNING)
    return now
