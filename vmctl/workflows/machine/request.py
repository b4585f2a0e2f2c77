"""What the settings ask for, parsed and priced before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.cloud import price_table
from vmctl.config import Project
from vmctl.domain.errors import InvalidInput
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.image import NAMED, Image
from vmctl.domain.machine.instance import labels_for
from vmctl.domain.machine.instance_spec import InstanceSpec
from vmctl.domain.machine.machine_type import MachineType, choose_machine
from vmctl.domain.machine.zone_order import region_of
from vmctl.domain.money.prices import HourlyCost
from vmctl.domain.settings.vm_settings import VmSettings
from vmctl.workflows.machine.watchdog_setup import run_limit_s, watchdog_metadata


@dataclass(frozen=True, slots=True)
class MachineRequest:
    """The machine that is asked for, where it is looked for first, and how long it may run."""

    vm: VmSettings  # the words that it was parsed from
    gpu: Gpu | None
    machine: MachineType
    image: Image
    region: str
    max_run_s: int


def parse_request(vm: VmSettings, *, local: bool) -> MachineRequest:
    """The [vm] settings as values; raises InvalidInput for what cannot be had."""
    gpu = Gpu.parse(vm.gpu)
    machine = choose_machine(gpu, vm.machine)
    image = Image.parse(vm.image)
    if image == NAMED["slurm"] and not local:
        raise InvalidInput(
            "Google has no image 'slurm': it is one of the embedded Compute Engine.",
            hint="vmctl --local up --image slurm --gpu none; your own cluster: --on slurm/HOST",
        )
    region = region_of(vm.zone) if vm.zone else vm.region
    cost = HourlyCost(None, None)
    if vm.budget is not None:
        cost = _highest_cost(vm, gpu, machine, region)
    return MachineRequest(vm, gpu, machine, image, region, run_limit_s(vm, cost, machine.name))


def _highest_cost(vm: VmSettings, gpu: Gpu | None, machine: MachineType, region: str) -> HourlyCost:
    """What the machine costs where it costs most of the zones that may be tried at home."""
    zones = [zone for zone in price_table.zones() if region_of(zone) == region] or [f"{region}-b"]
    costs = [
        price_table.hourly_cost(zone, machine.name, gpu, vm.disk_gb, spot=vm.spot) for zone in zones
    ]
    return max(costs, key=lambda cost: cost.all_usd_h or 0.0)


def make_spec(project: Project, request: MachineRequest, zone: str, ssh_keys: str) -> InstanceSpec:
    """The machine that the settings ask for, in full."""
    vm = request.vm
    return InstanceSpec(
        name=project.instance_name,
        zone=zone,
        machine=request.machine,
        gpu=request.gpu,
        image=request.image,
        disk_gb=vm.disk_gb,
        max_run_s=request.max_run_s,
        ssh_keys=ssh_keys,
        labels=labels_for(project.owner, project.name),
        metadata=watchdog_metadata(vm, request.max_run_s),
        budget_usd=vm.budget,
        spot=vm.spot,
        network=vm.network,
        subnetwork=vm.subnetwork,
        external_address=vm.external_address,
    )
