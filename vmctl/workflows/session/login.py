"""Logging in: vmctl's key on the VM, and its host keys pinned here."""

from __future__ import annotations

from vmctl.cloud import emulator_process
from vmctl.cloud.compute.compute import Compute, raise_failure
from vmctl.cloud.compute.responses import host_keys_in_log
from vmctl.domain.errors import AccessDenied, Conflict, InvalidInput, TimedOut
from vmctl.domain.events import Advanced, Story
from vmctl.domain.login.ssh_keys import OS_LOGIN_ITEM, key_entry, merged_keys, time_left
from vmctl.domain.machine.instance import Instance
from vmctl.ssh.identity import known_hosts
from vmctl.ssh.identity.keypair import ensure_keypair
from vmctl.workflows.base.operations import gap_s, wait_operation
from vmctl.workflows.base.site import Site

HOST_KEYS_LIMIT_S = 300.0  # a first boot that installs a driver publishes them early
OTHER_KINDS_AFTER_S = 10.0
SERIAL_PORT_AFTER_S = 60.0
TRIES = 3  # of a change that others may come in between


def renew_key(site: Site, instance: Instance) -> Story[Instance]:
    """Renew vmctl's key on the VM when less than half of its time is left.

    The guest agent removes a user whose last key has expired, so use renews it. Raises
    AccessDenied for a VM on which somebody has turned OS Login on: it would ignore the key;
    Conflict where the emulator boots no machines.
    """
    if instance.metadata.get(OS_LOGIN_ITEM, "").upper() == "TRUE":
        raise AccessDenied(
            f"OS Login is on for {instance.name}: Google ignores the keys in its metadata.",
            hint=f"gcloud compute instances add-metadata {instance.name} --zone {instance.zone} "
            f"--project {site.compute.project} --metadata {OS_LOGIN_ITEM}=FALSE",
        )
    project, now = site.project, site.clock.now()
    if project.local and emulator_process.is_metadata_only(emulator_process.home()):
        raise Conflict(
            f"{instance.name} is metadata only: this emulator was started with --metadata-only, "
            "so no machine answers ssh.",
            hint="For one that does, use another home: "
            "VMCTL_EMULATOR_HOME=~/.vmctl-machines vmctl --local up",
        )
    public_line = ensure_keypair().public_line
    if (
        time_left(instance.ssh_keys, project.login_user, public_line, now)
        > project.key_lifetime / 2
    ):
        return instance
    entry = new_key_entry(site)

    def items(vm: Instance) -> dict[str, str]:
        return {"ssh-keys": merged_keys(vm.ssh_keys, entry, now), OS_LOGIN_ITEM: "FALSE"}

    for _ in range(TRIES):
        asked = site.compute.set_metadata(instance, items)
        done = yield from wait_operation(site, asked, "key")
        # Google says it at once, or only when the operation ends
        if done.failure is None or done.failure.http_status != 412:
            break
        instance = site.reload(instance)
    raise_failure(done, site.compute.project, f"Renewing the login key of {instance.name}")
    return site.reload(instance)


def new_key_entry(site: Site) -> str:
    """The line of the `ssh-keys` metadata that lets us in, for as long as the settings say."""
    project, expires_at = site.project, site.clock.now() + site.project.key_lifetime
    return key_entry(project.login_user, ensure_keypair().public_line, expires_at)


def pin_host_keys(site: Site, instance: Instance, step: str) -> Story[None]:
    """Wait until the VM has published its host keys and pin them; pinned ones stay.

    They come through the API, never from the connection itself. Raises HostKeyChanged, TimedOut.
    """
    if known_hosts.pinned(instance.id):
        return
    began, serial = site.clock.monotonic(), False
    while True:
        waited = site.clock.monotonic() - began
        if try_to_pin(site.compute, instance, waited):
            return
        if waited > HOST_KEYS_LIMIT_S:
            raise TimedOut(
                f"{instance.name} has not published its host keys after "
                f"{HOST_KEYS_LIMIT_S / 60:g} minutes.",
                hint="Check its boot: gcloud compute instances get-serial-port-output "
                f"{instance.name} --zone {instance.zone}",
            )
        if waited > SERIAL_PORT_AFTER_S and not serial:
            serial = True
            yield Advanced(step, "no host keys yet: reading the serial port as well")
        site.clock.sleep(gap_s(waited))


def try_to_pin(compute: Compute, instance: Instance, waited_s: float) -> bool:
    """One look whether the VM has published its host keys; then they are pinned."""
    if known_hosts.pinned(instance.id):
        return True
    keys = _published(compute, instance, or_serial=waited_s > SERIAL_PORT_AFTER_S)
    wanted = any(key.startswith(f"{known_hosts.PREFERRED} ") for key in keys)
    if not wanted and not (keys and waited_s > OTHER_KINDS_AFTER_S):
        return False
    known_hosts.pin(instance.id, keys)
    return True


def _published(compute: Compute, instance: Instance, *, or_serial: bool) -> list[str]:
    """From guest attributes; from the serial port where those are forbidden or stay empty."""
    try:
        keys = compute.host_keys(instance)
    except (AccessDenied, InvalidInput) as refusal:  # an organisation can forbid guest attributes
        keys = host_keys_in_log(compute.serial_output(instance))
        if not keys and or_serial:
            raise refusal
        return keys
    if not keys and or_serial:
        return host_keys_in_log(compute.serial_output(instance))
    return keys
