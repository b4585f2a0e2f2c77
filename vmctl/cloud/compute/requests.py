"""Requests as Compute Engine wants them: pure functions from decisions to dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmctl.domain.login.ssh_keys import OS_LOGIN_ITEM
from vmctl.domain.machine.instance import MOVED_FROM_LABEL, Instance
from vmctl.domain.machine.instance_spec import InstanceSpec
from vmctl.domain.machine.machine_type import MachineType


def insert_body(plan: InstanceSpec) -> dict[str, Any]:
    """The body of `instances.insert` for a plan."""
    body: dict[str, Any] = {
        "name": plan.name,
        "machineType": f"zones/{plan.zone}/machineTypes/{plan.machine.name}",
        "scheduling": _scheduling(plan),
        "disks": [_boot_disk(plan)],
        "networkInterfaces": [_network_interface(plan)],
        "metadata": {"items": _items(_metadata(plan))},
        "labels": {
            **plan.labels,
            **({MOVED_FROM_LABEL: plan.moved_from} if plan.moved_from else {}),
        },
        "tags": {"items": list(plan.tags)},
        # No "serviceAccounts": a job on the VM gets no token for the user's project.
        # Secure boot would refuse NVIDIA's kernel module on images that build it themselves.
        "shieldedInstanceConfig": {
            "enableSecureBoot": False,
            "enableVtpm": True,
            "enableIntegrityMonitoring": True,
        },
    }
    if plan.gpu:
        body["guestAccelerators"] = [
            {
                "acceleratorType": f"zones/{plan.zone}/acceleratorTypes/{plan.gpu.accelerator}",
                "acceleratorCount": plan.gpu.count,
            }
        ]
    return body


def metadata_body(instance: Instance, changed: dict[str, str]) -> dict[str, Any]:
    """The body of `instances.setMetadata`: it replaces everything, so all items go along."""
    return {
        "fingerprint": instance.metadata_fingerprint,
        "items": _items({**instance.metadata, **changed}),
    }


def labels_body(instance: Instance, changed: Mapping[str, str | None]) -> dict[str, Any]:
    """The body of `instances.setLabels`: it replaces them all; None takes one away."""
    labels = {**instance.labels, **changed}
    return {
        "labelFingerprint": instance.label_fingerprint,
        "labels": {key: value for key, value in labels.items() if value is not None},
    }


def tags_body(instance: Instance, added: str) -> dict[str, Any]:
    """The body of `instances.setTags`: it replaces them all, so all go along."""
    tags = [tag for tag in instance.tags if tag != added]
    return {"fingerprint": instance.tags_fingerprint, "items": [*tags, added]}


def snapshot_body(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """The body of `disks.createSnapshot`."""
    return {"name": name, "labels": dict(labels)}


def scheduling_body(instance: Instance, max_run_s: int) -> dict[str, Any]:
    """The body of `instances.setScheduling` for a stopped VM: only the run limit changes."""
    maintenance = MachineType(instance.machine_type).choose_maintenance(spot=instance.spot)
    return {
        **_run_limit(max_run_s),
        **_at_stop(instance.has_local_ssd),
        "provisioningModel": "SPOT" if instance.spot else "STANDARD",
        "onHostMaintenance": maintenance,
        "automaticRestart": False,
    }


def _scheduling(plan: InstanceSpec) -> dict[str, Any]:
    scheduling: dict[str, Any] = {
        "onHostMaintenance": plan.machine.choose_maintenance(spot=plan.spot),
        # A restart by Google would give an idle VM that is paid for, with a fresh timer.
        "automaticRestart": False,
        **_run_limit(plan.max_run_s),
    }
    if plan.spot:
        scheduling["provisioningModel"] = "SPOT"
    return scheduling | _at_stop(plan.machine.has_local_ssd)


def _at_stop(has_local_ssd: bool) -> dict[str, Any]:
    """Google takes no limit that stops a VM with local SSDs unless their data may go."""
    return {"onInstanceStopAction": {"discardLocalSsd": True}} if has_local_ssd else {}


def _run_limit(seconds: int) -> dict[str, Any]:
    return {"maxRunDuration": {"seconds": str(seconds)}, "instanceTerminationAction": "STOP"}


def _boot_disk(plan: InstanceSpec) -> dict[str, Any]:
    return {
        "boot": True,
        "autoDelete": True,
        "type": "PERSISTENT",
        "mode": "READ_WRITE",
        "initializeParams": {
            **_disk_source(plan),
            "diskSizeGb": str(plan.disk_gb),
            "diskType": f"zones/{plan.zone}/diskTypes/{plan.disk_type}",
            "labels": dict(plan.labels),
        },
    }


def _disk_source(plan: InstanceSpec) -> dict[str, str]:
    if plan.snapshot:
        return {"sourceSnapshot": f"global/snapshots/{plan.snapshot}"}
    return {"sourceImage": plan.image.source}


def _network_interface(plan: InstanceSpec) -> dict[str, Any]:
    interface: dict[str, Any] = {}
    if plan.external_address:
        interface["accessConfigs"] = [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]
    if plan.subnetwork:
        interface["subnetwork"] = _path(
            plan.subnetwork, f"regions/{plan.region}/subnetworks/{plan.subnetwork}"
        )
    if plan.network or not plan.subnetwork:
        network = plan.network or "default"
        interface["network"] = _path(network, f"global/networks/{network}")
    if plan.machine.wants_gvnic:
        interface["nicType"] = "GVNIC"
    return interface


def _path(given: str, short: str) -> str:
    """A name becomes a path; a path (of a shared network in another project) stays."""
    return given if "/" in given else short


def _metadata(plan: InstanceSpec) -> dict[str, str]:
    return {
        "ssh-keys": plan.ssh_keys,
        # Project-wide keys would let everyone of a shared project in, with sudo.
        "block-project-ssh-keys": "TRUE",
        # Where the project asks for OS Login, it would make Google ignore the key above.
        OS_LOGIN_ITEM: "FALSE",
        # The VM publishes its host keys there: that is how they can be known before connecting.
        "enable-guest-attributes": "TRUE",
        # Images that carry no driver install it at first boot; the others ignore this.
        **({"install-nvidia-driver": "True"} if plan.gpu else {}),
        **plan.metadata,
    }


def _items(metadata: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in metadata.items()]
