"""The machine to create, decided in full before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vmctl.domain.login.ssh_keys import OS_LOGIN_ITEM
from vmctl.domain.machine.adoption import GUEST_ATTRIBUTES_ITEM
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.image import OLDEST_CAPABILITY_OF_PYTORCH_IMAGE, Image
from vmctl.domain.machine.instance import NETWORK_TAG, SSH_PORT_ITEM
from vmctl.domain.machine.machine_type import MachineType, boot_disk_type
from vmctl.domain.machine.watchdog import SETTINGS_ITEM, STARTUP_ITEM, WATCHDOG_MARKER

# what every VM gets again, or what was true of one VM only
MANAGED_METADATA = {"ssh-keys", OS_LOGIN_ITEM, GUEST_ATTRIBUTES_ITEM, SETTINGS_ITEM, SSH_PORT_ITEM}


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """All that `instances.insert` needs to know."""

    name: str
    zone: str
    machine: MachineType
    gpu: Gpu | None
    image: Image
    disk_gb: int
    max_run_s: int  # Google stops the VM after this long, whatever becomes of us
    ssh_keys: str
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)  # besides what every VM gets
    budget_usd: float | None = None  # what one start may cost: max_run_s follows from it
    spot: bool = False
    network: str | None = None
    subnetwork: str | None = None
    external_address: bool = True
    snapshot: str | None = None  # the boot disk is made from it instead of from the image
    moved_from: str | None = None  # the id of the VM whose disk is in that snapshot

    @property
    def tags(self) -> tuple[str, ...]:
        """What firewall rules know it by: all of vmctl's, and this one alone."""
        return (NETWORK_TAG, self.name)

    @property
    def region(self) -> str:
        """The zone without its last letter."""
        return self.zone.rpartition("-")[0]

    @property
    def disk_type(self) -> str:
        """The boot disk that the machine type can take."""
        return boot_disk_type(self.machine.name)

    def in_zone(self, zone: str) -> InstanceSpec:
        """The same machine in another zone."""
        return replace(self, zone=zone)


def own_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What the user, or another program of his, has set on a VM: it goes along to the next one."""
    own = {key: value for key, value in metadata.items() if key not in MANAGED_METADATA}
    if WATCHDOG_MARKER in own.get(STARTUP_ITEM, ""):
        del own[STARTUP_ITEM]
    return own


def cautions(gpu: Gpu | None, machine: MachineType, image: Image, spot: bool) -> list[str]:
    """What the user should know about this choice before paying for it."""
    found = []
    if gpu and gpu.model and image.family.startswith("pytorch-"):
        major, minor = gpu.model.capability
        if gpu.model.capability < OLDEST_CAPABILITY_OF_PYTORCH_IMAGE:
            found.append(
                f"The image's PyTorch may have no code for the {gpu.model.title} (compute "
                f"capability {major}.{minor}): install an older build, or choose a T4 or newer."
            )
    if machine.name.startswith("a3-highgpu-") and machine.name != "a3-highgpu-8g" and not spot:
        found.append(
            f"Google may sell {machine.name} only as Spot or Flex-start: if it refuses, add --spot."
        )
    if machine.family == "a4x":
        found.append(
            f"{machine.name} has Arm processors and is given to reservations only: "
            "[vm] image must name an image for arm64."
        )
    return found
