"""What the settings ask for, parsed and priced before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.cloud import price_table
from vmctl.cloud.price_table import hourly_cost
from vmctl.config import Project
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.image import Image
from vmctl.domain.machine.instance import labels_for
from vmctl.domain.machine.instance_spec import InstanceSpec
from vmctl.domain.machine.machine_type import MachineType, choose_machine
from vmctl.domain.machine.placement import region_of
from vmctl.domain.money.prices import HourlyCost
from vmctl.workflows.machine.watchdog_setup import run_limit_s, watchdog_metadata


@dataclass(frozen=True, slots=True)
class MachineRequest:
    """The machine that is asked for, where it is looked for first, and how long it may run."""

    gpu: Gpu | None
    machine: MachineType
    image: Image
    region: str
    max_run_s: int


def parse_request(project: Project) -> MachineRequest:
    """The [vm] settings as values; raises InvalidInput for what cannot be had."""
    vm = project.vm
    gpu = Gpu.parse(vm.gpu)
    machine = choose_machine(gpu, vm.machine)
    image = Image.parse(vm.image)
    region = region_of(vm.zone) if vm.zone else vm.region
    limited = vm.budget is not None
    rate = _dearest(project, gpu, machine, region) if limited else HourlyCost(None, None)
    return MachineRequest(gpu, machine, image, region, run_limit_s(project, rate, machine.name))


def _dearest(project: Project, gpu: Gpu | None, machine: MachineType, region: str) -> HourlyCost:
    """What the machine costs where it costs most of the zones that may be tried at home."""
    vm = project.vm
    zones = [zone for zone in price_table.zones() if region_of(zone) == region] or [f"{region}-b"]
    rates = [hourly_cost(zone, machine.name, gpu, vm.disk_gb, spot=vm.spot) for zone in zones]
    return max(rates, key=lambda rate: rate.all_usd_h or 0.0)


def make_spec(project: Project, wish: MachineRequest, zone: str, ssh_keys: str) -> InstanceSpec:
    """The machine that the settings ask for, in full."""
    return InstanceSpec(
        name=project.instance_name,
        zone=zone,
        machine=wish.machine,
        gpu=wish.gpu,
        image=wish.image,
        disk_gb=project.vm.disk_gb,
        max_run_s=wish.max_run_s,
        ssh_keys=ssh_keys,
        labels=labels_for(project.owner, project.name),
        metadata=watchdog_metadata(project, wish.max_run_s),
        budget_usd=project.vm.budget,
        spot=project.vm.spot,
        network=project.vm.network,
        subnetwork=project.vm.subnetwork,
        external_address=project.vm.external_address,
    )
