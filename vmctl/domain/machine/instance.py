"""A VM as vmctl sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.machine_type import boot_disk_type

LABEL = "vmctl"
NETWORK_TAG = "vmctl"  # on every VM, for firewall rules
OWNER_LABEL = "vmctl-owner"
NAME_LABEL = "vmctl-name"
MOVING_LABEL = "vmctl-moving"  # on a VM that is being left for another zone
MOVED_FROM_LABEL = "vmctl-moved-from"  # the id of that VM, on the snapshot and the VM made from it
SELFTEST_LABEL = "vmctl-selftest"  # on what a self-test makes, besides the other labels
SSH_PORT_ITEM = "vmctl-ssh-port"


class Status(StrEnum):
    """Where a VM is in its life; a stopped one reads TERMINATED."""

    PENDING = "PENDING"
    PROVISIONING = "PROVISIONING"
    STAGING = "STAGING"
    RUNNING = "RUNNING"
    PENDING_STOP = "PENDING_STOP"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    TERMINATED = "TERMINATED"
    SUSPENDING = "SUSPENDING"
    SUSPENDED = "SUSPENDED"
    REPAIRING = "REPAIRING"
    DEPROVISIONING = "DEPROVISIONING"
    UNKNOWN = "UNKNOWN"

    @classmethod
    def _missing_(cls, value: object) -> Status:
        return cls.UNKNOWN

    @property
    def is_coming(self) -> bool:
        """Will be RUNNING without being asked again."""
        return self in {Status.PENDING, Status.PROVISIONING, Status.STAGING, Status.REPAIRING}

    @property
    def is_going(self) -> bool:
        """Will stop, or be deleted, without being asked again."""
        return self in {
            Status.PENDING_STOP,
            Status.STOPPING,
            Status.SUSPENDING,
            Status.DEPROVISIONING,
        }

    @property
    def is_stopped(self) -> bool:
        """Off, its disk kept: only the disk costs."""
        return self in {Status.TERMINATED, Status.STOPPED}

    @property
    def is_billed(self) -> bool:
        """Whether its processors and GPUs cost money in this state."""
        return not self.is_stopped and self is not Status.SUSPENDED


@dataclass(frozen=True, slots=True)
class Instance:
    """One VM; times are in UTC, and None where Google does not tell them."""

    name: str
    id: str
    zone: str
    status: Status
    machine_type: str
    gpu: Gpu | None = None
    address: str | None = None  # the external one; changes at every start
    external: bool = True  # whether it has an external address while it runs
    network: str = ""  # of its first interface, by the path that Google gives
    google_project: str = ""
    ssh_port: int = 22
    labels: Mapping[str, str] = field(default_factory=dict)
    label_fingerprint: str = ""
    tags: tuple[str, ...] = ()
    tags_fingerprint: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    metadata_fingerprint: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    stops_at: datetime | None = None  # when Google's run limit will end it
    max_run_s: int | None = None
    spot: bool = False
    disk_gb: int = 0
    boot_disk: str = ""  # the boot disk's name, in the VM's zone
    data_disks: tuple[str, ...] = ()  # the others that outlive a stop
    has_local_ssd: bool = False  # its data is lost at a stop, which Google wants consent for

    @property
    def disk_type(self) -> str:
        """Of the boot disk; a VM tells the disk's size, not its type, so the machine's tells it."""
        return boot_disk_type(self.machine_type)

    @property
    def region(self) -> str:
        """The zone without its last letter."""
        return self.zone.rpartition("-")[0]

    @property
    def ssh_keys(self) -> str:
        """The metadata value that lists who may log in, one key per line."""
        return self.metadata.get("ssh-keys", "")

    @property
    def is_moving(self) -> bool:
        """Whether it is being moved to another zone: it is not to be started here any more."""
        return MOVING_LABEL in self.labels

    @property
    def moved_from(self) -> str:
        """The id of the VM in whose place this one was made by a move not yet settled; else ""."""
        return self.labels.get(MOVED_FROM_LABEL, "")

    @property
    def owner(self) -> str:
        """Whose it is, by its label."""
        return self.labels.get(OWNER_LABEL, "")

    @property
    def project_name(self) -> str:
        """The vmctl project that it belongs to, by its label."""
        return self.labels.get(NAME_LABEL, "")


def without_left(found: Sequence[Instance]) -> list[Instance]:
    """The VMs of a project without those that an unfinished move is leaving for another of them."""
    origins = {vm.moved_from for vm in found}
    return [vm for vm in found if not (vm.is_moving and vm.id in origins)]


def labels_for(owner: str, name: str) -> dict[str, str]:
    """The labels that make a VM or a disk findable, and somebody's."""
    return {LABEL: "1", OWNER_LABEL: owner, NAME_LABEL: name}
