"""Where a machine that exists is not the one that is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.instance import Instance


@dataclass(frozen=True, slots=True)
class DesiredMachine:
    """What was asked for; None where any will do."""

    gpu: Gpu | None
    machine: str | None = None
    zone: str | None = None
    region: str | None = None
    disk_gb: int | None = None
    spot: bool = False


def differences(have: Instance, asked: DesiredMachine) -> list[tuple[str, str]]:
    """Pairs of what the machine has and what was asked for, GPU first; [] when it will do."""
    found = []
    if have.gpu != asked.gpu:
        found.append(
            (have.gpu.title if have.gpu else "no GPU", asked.gpu.title if asked.gpu else "no GPU")
        )
    if asked.machine is not None and asked.machine != have.machine_type:
        found.append((have.machine_type, asked.machine))
    if asked.zone is not None and asked.zone != have.zone:
        found.append((have.zone, asked.zone))
    elif asked.zone is None and asked.region is not None and asked.region != have.region:
        found.append((have.zone, asked.region))
    if asked.spot and not have.spot:
        found.append(("on demand", "Spot"))
    if asked.disk_gb is not None and asked.disk_gb != have.disk_gb:
        found.append((f"a {have.disk_gb} GB disk", f"{asked.disk_gb} GB"))
    return found
