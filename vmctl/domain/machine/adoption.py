"""What a VM that somebody else made lacks to be one of vmctl's, and what stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmctl.domain.errors import Conflict
from vmctl.domain.login.ssh_keys import OS_LOGIN_ITEM
from vmctl.domain.machine.instance import (
    NAME_LABEL,
    NETWORK_TAG,
    OWNER_LABEL,
    Instance,
    Status,
    labels_for,
)
from vmctl.domain.machine.watchdog import STARTUP_ITEM

GUEST_ATTRIBUTES_ITEM = "enable-guest-attributes"
SHARED_KEYS_ITEM = "block-project-ssh-keys"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A VM with what a VM of vmctl's own need not be asked for."""

    instance: Instance
    disk_labels: Mapping[str, str] = field(default_factory=dict)
    disk_label_fingerprint: str = ""
    boot_device: str = ""  # the boot disk's name among the VM's devices
    disk_goes_along: bool = True  # the boot disk is deleted with the VM
    left_behind: tuple[str, ...] = ()  # other disks, which are not
    restarts: bool = False  # Google starts it again after its host failed
    deleted_at_limit: bool = False  # its run limit, or a preemption, deletes it
    protected: bool = False  # against deletion
    service_account: str = ""
    project_metadata: Mapping[str, str] = field(default_factory=dict)

    def word(self, item: str) -> str:
        """A metadata item in upper case; the VM's own word beats its project's."""
        own = self.instance.metadata.get(item)
        return (own if own is not None else self.project_metadata.get(item, "")).upper()


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that adoption changes; `before` and `after` as people read them."""

    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what}: {f'{self.before} → ' if self.before else ''}{self.after}"


@dataclass(frozen=True, slots=True)
class Adoption:
    """All changes to one VM, decided before any is made, and the facts that stay."""

    labels: Mapping[str, str]
    disk_labels: Mapping[str, str]
    metadata: Mapping[str, str]  # besides the key, which carries a time
    tags: tuple[str, ...]  # all that it will have; empty: they stay
    key: bool
    max_run_s: int | None  # the limit to set; None: it stays
    take_disk_along: bool  # let the boot disk be deleted with the VM
    changes: tuple[Change, ...]
    stays: tuple[str, ...]


def refuse_unfit(candidate: Candidate, owner: str, name: str, present: Instance | None) -> None:
    """Raise Conflict for a VM that is another's, between two states, or one too many."""
    vm = candidate.instance
    if vm.owner and vm.owner != owner:
        raise Conflict(
            f"{vm.name} belongs to '{vm.owner}', by its label {OWNER_LABEL}.",
            hint=f"If it was given to you: gcloud compute instances remove-labels {vm.name} "
            f"--zone {vm.zone} --labels {OWNER_LABEL},{NAME_LABEL}",
        )
    if vm.project_name and vm.project_name != name:
        raise Conflict(
            f"{vm.name} is already the VM of your project '{vm.project_name}'.",
            hint=f"Use it from there, or: vmctl --name {vm.project_name} status",
        )
    if present is not None and present.id != vm.id:
        raise Conflict(
            f"The project '{name}' already has a VM: {present.name} in {present.zone}.",
            hint=f"Adopt it under another name: vmctl --name OTHER adopt {vm.name}",
        )
    if vm.status is not Status.RUNNING and not vm.status.is_stopped:
        raise Conflict(
            f"{vm.name} is {vm.status}: only a VM that runs or is stopped can be adopted.",
            hint="Try again when it is: "
            f"gcloud compute instances describe {vm.name} --zone {vm.zone}",
        )


def adoption_of(
    candidate: Candidate,
    *,
    owner: str,
    name: str,
    user: str,
    has_key: bool,
    max_run_s: int,
    idle: str,
) -> Adoption:
    """What to change so that the VM is the project's; what is right already is left alone.

    `idle` is after how long its watchdog is to stop it, empty for never.
    """
    vm = candidate.instance
    wanted = labels_for(owner, name)
    labels = {key: value for key, value in wanted.items() if vm.labels.get(key) != value}
    disk = {k: v for k, v in wanted.items() if candidate.disk_labels.get(k) != v}
    metadata, changes = {}, []
    if labels:
        changes.append(Change("labels", "", f"also {_pairs(labels)}"))
    if disk and vm.boot_disk:
        changes.append(Change(f"labels of the disk {vm.boot_disk}", "", f"also {_pairs(disk)}"))
    tags = () if NETWORK_TAG in vm.tags else (*vm.tags, NETWORK_TAG)
    if tags:
        changes.append(Change("network tags", ", ".join(vm.tags), ", ".join(tags)))
    if not has_key:
        changes.append(Change("ssh keys", _others(vm), f"also vmctl's, for {user}, renewed by use"))
    if candidate.word(OS_LOGIN_ITEM) == "TRUE":
        metadata[OS_LOGIN_ITEM] = "FALSE"
        changes.append(Change(OS_LOGIN_ITEM, "TRUE", "FALSE (OS Login ignores keys in metadata)"))
    if candidate.word(GUEST_ATTRIBUTES_ITEM) != "TRUE":
        metadata[GUEST_ATTRIBUTES_ITEM] = "TRUE"
        changes.append(Change(GUEST_ATTRIBUTES_ITEM, "", "TRUE (the VM publishes its host keys)"))
    if not candidate.disk_goes_along:
        after = "is deleted with the VM by `vmctl down --delete`"
        changes.append(Change(f"the disk {vm.boot_disk}", "stays when the VM is deleted", after))
    if STARTUP_ITEM not in vm.metadata:
        stops = f", which stops the VM when it is idle for {idle}" if idle else ""
        changes.append(Change(STARTUP_ITEM, "", f"vmctl's watchdog{stops}"))
    limit = None
    if vm.status.is_stopped and vm.max_run_s != max_run_s:
        limit = max_run_s
        before = f"{vm.max_run_s / 3600:g} h" if vm.max_run_s else ""
        changes.append(Change("run limit", before, f"{max_run_s / 3600:g} h, then Google stops it"))
    return Adoption(
        labels=labels,
        disk_labels=disk if vm.boot_disk else {},
        metadata=metadata,
        tags=tags,
        key=not has_key,
        max_run_s=limit,
        take_disk_along=not candidate.disk_goes_along,
        changes=tuple(changes),
        stays=tuple(_stays(candidate)),
    )


def _stays(candidate: Candidate) -> list[str]:
    """What vmctl would have done otherwise and cannot, or does not, change here."""
    vm, facts = candidate.instance, []
    where = f"{vm.name} --zone {vm.zone}"
    running = vm.status is Status.RUNNING
    if running and vm.max_run_s is None:
        facts.append(
            "It has no run limit, and Google sets one only on a stopped VM: Google does "
            "not stop it until `vmctl down` and `vmctl up` have set a limit."
        )
    if running and candidate.restarts:
        facts.append(
            "Google starts it again after a failure of its host, until it was stopped once."
        )
    if candidate.deleted_at_limit:
        facts.append(
            "Google deletes it instead of stopping it when its time is up or it is preempted."
        )
    if candidate.service_account:
        facts.append(
            f"Every job on it can act as {candidate.service_account}. To remove it once the "
            f"VM is stopped: gcloud compute instances set-service-account {where} "
            "--no-service-account --no-scopes"
        )
    if candidate.word(SHARED_KEYS_ITEM) != "TRUE":
        facts.append(
            "Everybody with a key in the project's metadata can log in on it, too. To "
            f"change that: gcloud compute instances add-metadata {where} --metadata "
            f"{SHARED_KEYS_ITEM}=TRUE"
        )
    if candidate.left_behind:
        facts.append(
            f"`vmctl down --delete` leaves {', '.join(candidate.left_behind)}, and what that costs:"
            f" gcloud compute disks delete {' '.join(candidate.left_behind)} --zone {vm.zone}"
        )
    if candidate.protected:
        facts.append(
            "It is protected against deletion. To change that: gcloud compute instances "
            f"update {where} --no-deletion-protection"
        )
    return facts


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _others(vm: Instance) -> str:
    count = sum(bool(line.strip()) for line in vm.ssh_keys.splitlines())
    return f"{count} of others, which are kept" if count else ""
