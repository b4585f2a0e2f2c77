"""The metadata tree of an instance, its boot specification, and the item with its ssh port."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from ..errors import Json
from ..http import urls
from ..machines import DataDisk, Internal, MachineSpec, is_machine_address
from ..store import Key, Record, Store
from .cloud import Cloud
from .firewall import allows_internal, network_name

PORT_ITEM = "vmctl-ssh-port"
_NO_CONFIGURATION = ("fingerprint", "status", "resourceStatus")


def make_machine_spec(cloud: Cloud, record: Record) -> MachineSpec:
    """Describe an instance to the machine host."""
    body = record.body
    accelerator = next(iter(body.get("guestAccelerators", ())), None)
    static = record.private.get("static_ip")
    static = static if static and is_machine_address(static) else None
    boot = next(disk for disk in body["disks"] if disk["boot"])
    return MachineSpec(
        instance_id=body["id"],
        name=record.key.name,
        hostname=body.get("hostname", record.key.name),
        disk=cloud.machines.disk(record.private["boot_disk_id"]),
        image=record.private["machine"],
        nat_ip=static or record.private.get("nat_ip"),
        static=static is not None,
        gpu=urls.last(accelerator["acceleratorType"]) if accelerator else None,
        gpu_count=accelerator["acceleratorCount"] if accelerator else 0,
        disk_gb=int(boot["diskSizeGb"]),
        internal=Internal(
            network=network_name(record.key.project),
            address=body["networkInterfaces"][0]["networkIP"],
            full_name=full_name(record),
            is_open=allows_internal(cloud.store, record.key.project),
        ),
        data_disks=tuple(
            make_data_disk(cloud, disk, attached)
            for attached in body["disks"]
            if not attached["boot"] and (disk := find_disk(cloud.store, record, attached))
        ),
    )


def full_name(record: Record) -> str:
    """Return an instance's name in its network: its own host name, or Google's."""
    zone, project = urls.last(record.key.scope), record.key.project
    default = f"{record.key.name}.{zone}.c.{project}.internal"
    return str(record.body.get("hostname", default))


def find_disk(store: Store, instance: Record, attached: Json) -> Record | None:
    """Return the resource behind an instance's attached disk; None for a local SSD."""
    name = urls.last(attached.get("source", ""))
    return store.get(instance.key._replace(collection="disks", name=name))


def make_data_disk(cloud: Cloud, disk: Record, attached: Json) -> DataDisk:
    """Describe a disk that no machine boots from to the machine host."""
    return DataDisk(
        name=attached["deviceName"],
        folder=cloud.machines.disk(disk.body["id"]),
        size_gb=int(disk.body["sizeGb"]),
        read_only=attached["mode"] == "READ_ONLY",
        blank=not disk.private["image"],
    )


def fingerprint(value: Any) -> str:
    """Return the fingerprint that an update of `value` has to quote (8 bytes, base64)."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return base64.urlsafe_b64encode(digest[:8]).decode()


def save_changed(store: Store, record: Record) -> None:
    """Save an instance that was changed through the API, under a new fingerprint."""
    config = {k: v for k, v in record.body.items() if k not in _NO_CONFIGURATION}
    record.body["fingerprint"] = fingerprint(config)
    store.save(record)


def make_metadata(items: list[Json]) -> Json:
    """Return a metadata resource with its fingerprint."""
    metadata: Json = {"kind": "compute#metadata", "fingerprint": fingerprint(items)}
    if items:
        metadata["items"] = items
    return metadata


def read_attributes(metadata: Json) -> dict[str, str]:
    """Return metadata items as a dict."""
    return {item["key"]: item.get("value", "") for item in metadata.get("items", ())}


def show_ssh_port(record: Record) -> None:
    """Add or remove the metadata item that names an ssh port other than 22."""
    items = [i for i in record.body["metadata"].get("items", ()) if i["key"] != PORT_ITEM]
    port = record.private.get("ssh_port", 22)
    if port != 22:
        items.append({"key": PORT_ITEM, "value": str(port)})
    record.body["metadata"] = make_metadata(items)


def read_project_attributes(store: Store, project: str) -> dict[str, str]:
    """Return the metadata that all machines of a project share."""
    record = store.get(Key(project, "projects", urls.GLOBAL, project))
    return read_attributes(record.body["commonInstanceMetadata"]) if record else {}


def allows_guest_attributes(store: Store, record: Record) -> bool:
    """Whether the guest may publish attributes; the instance's metadata wins over the project's."""
    own = read_attributes(record.body["metadata"])
    shared = read_project_attributes(store, record.key.project)
    word = own.get("enable-guest-attributes", shared.get("enable-guest-attributes", ""))
    return word.upper() == "TRUE"


def build_metadata_tree(store: Store, record: Record) -> Json:
    """Return everything below computeMetadata/v1, keys spelled as in its URLs."""
    body, project = record.body, record.key.project
    number = urls.project_number(project)
    zone = urls.last(record.key.scope)
    scheduling = body["scheduling"]
    guest: Json = {}
    for path, value in record.private.get("guest_attributes", {}).items():
        namespace, _, key = path.partition("/")
        guest.setdefault(namespace, {})[key] = value
    return {
        "instance": {
            "attributes": read_attributes(body["metadata"]),
            "cpu-platform": body["cpuPlatform"],
            "description": body.get("description", ""),
            "disks": [
                {
                    "device-name": disk["deviceName"],
                    "index": disk["index"],
                    "interface": disk["interface"],
                    "mode": disk["mode"],
                    "type": "PERSISTENT" if disk["type"] == "PERSISTENT" else "LOCAL-SSD",
                }
                for disk in body["disks"]
            ],
            "guest-attributes": guest,
            "hostname": full_name(record),
            "id": int(body["id"]),
            "image": record.private.get("image", ""),
            "licenses": [],
            "machine-type": f"projects/{number}/machineTypes/{urls.last(body['machineType'])}",
            "maintenance-event": record.private.get("maintenance", "NONE"),
            "name": record.key.name,
            "network-interfaces": [
                _interface(number, interface) for interface in body["networkInterfaces"]
            ],
            "preempted": "TRUE" if record.private.get("preempted") else "FALSE",
            "remaining-cpu-time": -1,
            "scheduling": {
                "automatic-restart": str(scheduling.get("automaticRestart", True)).upper(),
                "on-host-maintenance": scheduling["onHostMaintenance"],
                "preemptible": str(scheduling.get("preemptible", False)).upper(),
            },
            "service-accounts": {},
            "tags": body["tags"].get("items", []),
            "zone": f"projects/{number}/zones/{zone}",
        },
        "project": {
            "attributes": read_project_attributes(store, project),
            "numeric-project-id": int(number),
            "project-id": project,
        },
    }


def _interface(number: str, interface: Json) -> Json:
    return {
        "access-configs": [
            {"external-ip": access.get("natIP", ""), "type": access["type"]}
            for access in interface.get("accessConfigs", ())
        ],
        "dns-servers": ["169.254.169.254"],
        "ip": interface["networkIP"],
        "mtu": 1460,
        "network": f"projects/{number}/networks/{urls.last(interface['network'])}",
    }
