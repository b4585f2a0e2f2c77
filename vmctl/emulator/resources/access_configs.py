"""External addresses given to an instance, and taken from it, while it is there."""

from __future__ import annotations

from ..cloud.call import Call, Handler
from ..cloud.cloud import Cloud
from ..cloud.metadata import save_changed, show_ssh_port
from ..errors import Json, OperationError, invalid_field, not_ready
from ..http import urls
from ..machines import is_machine_address
from ..store import Record
from . import addresses, instance_body


async def add(call: Call) -> Json:
    """instances.addAccessConfig: an ephemeral address, or a reserved one that is free."""
    record, nic = _find(call)
    if nic.get("accessConfigs"):
        raise invalid_field(
            "resource.accessConfigs", len(nic["accessConfigs"]),
            "At most one access config currently supported.",
        )  # fmt: skip
    access = instance_body.make_access("resource", call.body)
    if "natIP" in access:
        if nic is not record.body["networkInterfaces"][0]:
            raise invalid_field(
                "resource.natIP", access["natIP"], "Only the first interface has a static address."
            )
        region = urls.region_of(call.path["zone"])
        addresses.check_free(call, "resource.natIP", access["natIP"], region)
        record.private["static_ip"] = access["natIP"]
    nic["accessConfigs"] = [access]
    return _finish(call, record)


async def delete(call: Call) -> Json:
    """instances.deleteAccessConfig: a reserved address stays reserved, another is given back."""
    record, nic = _find(call)
    name = call.query["accessConfig"]
    if name not in [access["name"] for access in nic.get("accessConfigs", ())]:
        raise invalid_field("accessConfig", name, "The specified access config does not exist.")
    del nic["accessConfigs"]
    if nic is record.body["networkInterfaces"][0]:
        record.private.pop("static_ip", None)
    return _finish(call, record)


def _find(call: Call) -> tuple[Record, Json]:
    record = call.find("instances", call.path["instance"])
    if record.private.get("deleting") or record.body["status"] not in ("RUNNING", "TERMINATED"):
        raise not_ready(record.key.path)
    name = call.query["networkInterface"]
    for nic in record.body["networkInterfaces"]:
        if nic["name"] == name:
            return record, nic
    raise invalid_field("networkInterface", name, "The specified network interface does not exist.")


def _finish(call: Call, record: Record) -> Json:
    save_changed(call.cloud.store, record)

    async def move(operation: Record) -> None:
        try:
            await _readdress(call.cloud, record)
        except OperationError:
            record.body["networkInterfaces"][0].pop("accessConfigs", None)
            record.private.pop("static_ip", None)
            save_changed(call.cloud.store, record)
            raise

    return call.start(call.method.rpartition(".")[2], record.key, record.body["id"], move)


async def _readdress(cloud: Cloud, record: Record) -> None:
    """Let a running machine listen at its new address only, or, without one, nobody reach it."""
    static = record.private.get("static_ip")
    own = static if static and is_machine_address(static) else None
    booted = await cloud.machines.readdress(record.body["id"], own)
    if booted is None or record.body["status"] != "RUNNING":
        return
    record.private |= {"nat_ip": booted.nat_ip, "ssh_port": booted.ssh_port}
    for access in record.body["networkInterfaces"][0].get("accessConfigs", ()):
        access["natIP"] = static or booted.nat_ip
    show_ssh_port(record)
    save_changed(cloud.store, record)
    await cloud.machines.admit(record.body["id"], cloud.firewall.is_open(record))
    await cloud.machines.metadata_changed(record.body["id"])


METHODS: dict[str, Handler] = {
    "compute.instances.addAccessConfig": add,
    "compute.instances.deleteAccessConfig": delete,
}
