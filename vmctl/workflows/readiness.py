"""From RUNNING to a machine that can train: each rung is waited for, named and timed."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.driver import DRIVER_QUESTION, Driver
from vmctl.domain.errors import HostKeyChanged, TimedOut, Unreachable
from vmctl.domain.events import Advanced, Finished, Noted, Started, Story, Warned
from vmctl.domain.gpu import Gpu
from vmctl.domain.image import Image, brings_driver
from vmctl.domain.instance import Instance, Status
from vmctl.domain.probe import last_lines
from vmctl.domain.target import Target
from vmctl.gce.compute import Compute
from vmctl.ssh.connection import Connection, wait_for_ssh
from vmctl.ssh.keys import ensure_keypair
from vmctl.ssh.openssh import OpenSSH
from vmctl.workflows.login import pin_host_keys, renew_key
from vmctl.workflows.session import remember_instance, target_of
from vmctl.workflows.setup import prepare_machine

DRIVER_LIMIT_S = 900.0  # images without a driver build it at first boot: 3 to 8 minutes
DRIVER_GAP_S = 1.0
DRIVER_ANSWER_S = 60.0
SSH_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """A machine that answers, and what it said about its GPUs."""

    instance: Instance
    driver: str | None
    simulated: bool = False


def preload() -> None:
    """Import what talks to the VM while Google works: it takes a third of a second."""
    from importlib import import_module

    threading.Thread(
        target=import_module, args=("fabric",), name="preload fabric", daemon=True
    ).start()


def make_ready(
    project: Project, compute: Compute, instance: Instance, clock: Clock
) -> Story[Readiness]:
    """Wait until SSH answers with the pinned host key, prepare the VM, wait for its driver.

    Raises TimedOut, HostKeyChanged or AccessDenied, each naming the rung.
    """
    began = clock.monotonic()
    yield Started("ssh", f"Waiting for SSH on {instance.name}")
    instance = yield from renew_key(project, compute, instance, clock)
    yield from pin_host_keys(compute, instance, clock, "ssh")
    target = target_of(project, instance, ensure_keypair())
    remote = yield from _let_in(compute, instance, target, clock)
    remember_instance(project, instance, target, clock)
    yield Finished("ssh", f"SSH answers, host key verified: {target.user}@{target.address}",
                   clock.monotonic() - began)  # fmt: skip
    try:
        yield from prepare_machine(remote, clock=clock)
        if instance.gpu is None:
            return Readiness(instance, None)
        driver = yield from _driver(project, remote, instance, instance.gpu, clock)
    finally:
        if isinstance(remote, Connection):
            remote.close()
    if driver is None:
        return Readiness(instance, None)
    return Readiness(instance, driver.version, driver.is_simulated)


def _let_in(
    compute: Compute, instance: Instance, target: Target, clock: Clock
) -> Story[OpenSSH | Connection]:
    """The warm connection where there is one, else a new conversation once sshd lets us in."""
    warm = OpenSSH(target)
    if warm.probe():
        return warm
    yield from ()
    try:
        return wait_for_ssh(target, clock.monotonic() + SSH_LIMIT_S, clock)
    except TimedOut as error:
        now = compute.get_instance(instance.zone, instance.name)
        if now is None or now.status is not Status.RUNNING:
            state = now.status if now else "gone"
            raise TimedOut(
                f"{instance.name} is {state}: it ended before SSH answered.", hint="vmctl up"
            ) from error
        raise TimedOut(
            f"{error.message.rstrip('.')}.",
            hint="Is tcp:22 open in the firewall, and OS Login off (it makes Google ignore keys "
            f"in metadata)? Its boot: gcloud compute instances get-serial-port-output "
            f"{instance.name} --zone {instance.zone}",
        ) from error


def _driver(
    project: Project, remote: OpenSSH | Connection, instance: Instance, gpu: Gpu, clock: Clock
) -> Story[Driver | None]:
    """What nvidia-smi says once it sees every GPU; None where the image brings no driver."""
    began = clock.monotonic()
    yield Started("driver", f"Waiting for the driver of {gpu.title}")
    coming = brings_driver(Image.parse(project.vm.image))
    said = ""
    while True:
        try:
            answer = remote.run(DRIVER_QUESTION, timeout_s=DRIVER_ANSWER_S)
            driver = Driver.parse(answer.text) if answer.code == 0 else None
            seen = last_lines(answer.text + answer.error_text, 1) or "no answer"
        except HostKeyChanged:
            raise
        except (TimedOut, Unreachable) as error:
            # a driver that is being installed can hold everything up, or restart the network
            driver, seen = None, error.message.rstrip(".")
        if driver is not None and len(driver.names) >= gpu.count:
            seconds = clock.monotonic() - began
            yield Finished("driver", f"{_counted(driver)}, driver {driver.version}", seconds)
            if driver.is_simulated:
                yield Noted("The GPU is simulated: jobs run on this computer's processors.")
            return driver
        if driver is not None:
            seen = f"nvidia-smi sees {len(driver.names)} of {gpu.count} GPUs"
        if not coming:
            yield Warned(
                f"No driver answers on {instance.name} ({seen}): the image {project.vm.image} "
                "brings none. With one: vmctl down --delete, then vmctl up --image pytorch"
            )
            return None
        if seen != said:
            said = seen
            yield Advanced("driver", said)
        if clock.monotonic() - began > DRIVER_LIMIT_S:
            raise TimedOut(
                f"The driver on {instance.name} does not answer after "
                f"{DRIVER_LIMIT_S / 60:g} minutes: {said}.",
                hint="Look: vmctl exec nvidia-smi; or start afresh: vmctl down --delete",
            )
        clock.sleep(DRIVER_GAP_S)


def _counted(driver: Driver) -> str:
    """ "Tesla T4", or "2 x NVIDIA L4"."""
    name = driver.names[0]
    return name if len(driver.names) == 1 else f"{len(driver.names)} x {name}"
