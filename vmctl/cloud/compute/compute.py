"""Compute Engine as vmctl uses it: domain values in, domain values out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmctl.cloud.compute import requests, responses
from vmctl.cloud.compute.operations import event_of, operation_of, power_event_of
from vmctl.cloud.transport import Transport
from vmctl.domain.errors import Conflict
from vmctl.domain.google.api_errors import Kind, as_error
from vmctl.domain.google.operation import Operation
from vmctl.domain.google.stop_reason import EVENTS, SystemEvent
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.instance import NAME_LABEL, OWNER_LABEL, Instance, Status, without_left
from vmctl.domain.machine.instance_spec import InstanceSpec

if TYPE_CHECKING:
    from vmctl.domain.money.ledger import OperationEvent


class Compute(Transport):
    """One Google project's machines."""

    # -- finding ----------------------------------------------------------------------------

    def find_instance(self, owner: str, name: str) -> Instance | None:
        """The VM that carries these labels, in whatever zone; None when there is none.

        During a move it is the new one, once that exists. Raises Conflict when there
        are several, because each of them costs money.
        """
        found = without_left(list(self._labelled({OWNER_LABEL: owner, NAME_LABEL: name})))
        if len(found) > 1:
            places = ", ".join(f"{vm.name} in {vm.zone}" for vm in found)
            raise Conflict(
                f"There are {len(found)} VMs for the project '{name}': {places}.",
                hint=f"Delete one: gcloud compute instances delete {found[-1].name} "
                f"--zone {found[-1].zone} --project {self.project}",
            )
        return found[0] if found else None

    def list_instances(self, owner: str) -> list[Instance]:
        """All VMs of an owner that vmctl made in this Google project, by name."""
        return sorted(self._labelled({OWNER_LABEL: owner}), key=lambda vm: (vm.name, vm.zone))

    def get_instance(self, zone: str, name: str) -> Instance | None:
        """One VM by zone and name; None when it does not exist."""
        reply = self._get(
            self._service.instances().get(project=self.project, zone=zone, instance=name),
            missing_ok=True,
        )
        return responses.instance_of(reply) if reply is not None else None

    def pending_insert(self, name: str) -> Operation | None:
        """An unfinished creation of a VM of this name in any zone, asked for by an earlier call."""
        wanted = "(operationType = insert) AND (status != DONE)"
        for page in self.pages("globalOperations", "aggregatedList", filter=wanted):
            for item in responses.aggregated(page, "operations"):
                operation = operation_of(item)
                is_vm = "/instances/" in item.get("targetLink", "")
                is_wanted = is_vm and operation.kind == "insert" and operation.target == name
                if is_wanted and not operation.is_done:
                    return operation
        return None

    def zones(self) -> list[str]:
        """All zones that Google has."""
        return sorted(
            zone["name"] for page in self.pages("zones") for zone in page.get("items", [])
        )

    def zones_with(self, gpu: Gpu) -> list[str]:
        """The zones that offer a GPU to this project, as Google says now."""
        wanted = f"name = {gpu.accelerator}"
        return sorted(
            responses.last_part(item["zone"])
            for page in self.pages("acceleratorTypes", "aggregatedList", filter=wanted)
            for item in responses.aggregated(page, "acceleratorTypes")
            if item.get("name") == gpu.accelerator
        )

    # -- changing ---------------------------------------------------------------------------

    def insert(self, plan: InstanceSpec) -> Operation:
        """Ask for a new VM."""
        body = requests.insert_body(plan)
        return self.change("instances", "insert", plan.name, zone=plan.zone, body=body)

    def start(self, instance: Instance) -> Operation:
        """Ask for a stopped VM to start, for a suspended one to run on."""
        return self._on(instance, "resume" if instance.status is Status.SUSPENDED else "start")

    def stop(self, instance: Instance) -> Operation:
        """Ask for a VM to stop; its disk stays."""
        # Google refuses to stop a VM with local SSDs without the consent that their data is lost.
        more = {"discardLocalSsd": True} if instance.has_local_ssd else {}
        return self._on(instance, "stop", **more)

    def delete(self, instance: Instance) -> Operation:
        """Ask for a VM to go, with its boot disk."""
        return self._on(instance, "delete")

    def set_metadata(
        self,
        instance: Instance,
        changed: Mapping[str, str] | Callable[[Instance], Mapping[str, str]],
    ) -> Operation:
        """Ask for metadata items to change.

        An item that holds more than vmctl's own, such as the keys, is given by a function of the VM
        as it is then.
        """

        def ask(vm: Instance) -> Operation:
            items = changed(vm) if callable(changed) else changed
            body = requests.metadata_body(vm, dict(items))
            return self._on(vm, "setMetadata", body=body)

        return self._merging(instance, ask)

    def set_labels(self, instance: Instance, changed: Mapping[str, str | None]) -> Operation:
        """Ask for labels to change (None: to go)."""

        def ask(vm: Instance) -> Operation:
            body = requests.labels_body(vm, changed)
            return self._on(vm, "setLabels", body=body)

        return self._merging(instance, ask)

    def add_tag(self, instance: Instance, tag: str) -> Operation:
        """Ask for one more network tag."""

        def ask(vm: Instance) -> Operation:
            body = requests.tags_body(vm, tag)
            return self._on(vm, "setTags", body=body)

        return self._merging(instance, ask)

    def _merging(self, instance: Instance, ask: Callable[[Instance], Operation]) -> Operation:
        """Ask for a change; fails with `conditionNotMet` where others change the VM all the time.

        Another's change in between (another `vmctl`, gcloud) is merged with, a few times.
        """
        for _ in range(3):
            operation = ask(instance)
            if operation.failure is None or operation.failure.http_status != 412:
                return operation
            fresh = self.get_instance(instance.zone, instance.name)
            if fresh is None:
                return operation
            instance = fresh
        return operation

    def set_run_limit(self, instance: Instance, max_run_s: int) -> Operation:
        """Ask for another run limit; Google allows it only while the VM is stopped."""
        body = requests.scheduling_body(instance, max_run_s)
        return self._on(instance, "setScheduling", body=body)

    def look_at(self, operation: Operation) -> Operation:
        """How an operation is now; one that Google no longer knows is done."""
        if operation.is_done:
            return operation
        where = {"project": self.project, "operation": operation.name}
        if operation.zone:
            request = self._service.zoneOperations().get(zone=operation.zone, **where)
        elif operation.region:
            request = self._service.regionOperations().get(region=operation.region, **where)
        else:
            request = self._service.globalOperations().get(**where)
        reply = self._get(request)
        return operation_of(reply)

    def system_events(self, instance: Instance) -> list[SystemEvent]:
        """What Google did to a VM without being asked, such as a Spot preemption."""

        kinds = " OR ".join(f'(operationType = "{kind}")' for kind in EVENTS)
        events = [
            event_of(item)
            for page in self.pages("zoneOperations", zone=instance.zone, filter=kinds)
            for item in page.get("items", [])
        ]
        return [event for event in events if event and event.instance_id == instance.id]

    def power_events(self) -> list[OperationEvent]:
        """Every operation that turned something on, off, or away; Google keeps two weeks' worth."""
        from vmctl.domain.money.ledger import POWER_CHANGES  # for the bill only

        kinds = " OR ".join(f'(operationType = "{kind}")' for kind in POWER_CHANGES)
        events = [
            power_event_of(item)
            for page in self.pages("globalOperations", "aggregatedList", filter=kinds)
            for item in responses.aggregated(page, "operations")
        ]
        return [event for event in events if event]

    # -- reading from a VM -------------------------------------------------------------------

    def host_keys(self, instance: Instance) -> list[str]:
        """The SSH host keys that the VM published ("ssh-ed25519 AAAA…"); [] means not yet."""
        reply = self._get(
            self._service.instances().getGuestAttributes(
                project=self.project,
                zone=instance.zone,
                instance=instance.name,
                queryPath="hostkeys/",
            ),
            missing_ok=True,
        )
        return responses.host_keys_of(reply) if reply is not None else []

    def serial_output(self, instance: Instance) -> str:
        """What the VM wrote to its first serial port, at most the last megabyte."""
        reply = self._get(
            self._service.instances().getSerialPortOutput(
                project=self.project, zone=instance.zone, instance=instance.name, port=1
            )
        )
        return str(reply.get("contents", ""))

    def _labelled(self, labels: Mapping[str, str]) -> Iterator[Instance]:
        wanted = " AND ".join(f"(labels.{key} = {value})" for key, value in labels.items())
        for page in self.pages("instances", "aggregatedList", filter=wanted):
            for item in responses.aggregated(page, "instances"):
                instance = responses.instance_of(item)
                # trust no filter with somebody else's machine
                if all(instance.labels.get(key) == value for key, value in labels.items()):
                    yield instance

    def _on(self, instance: Instance, verb: str, **more: Any) -> Operation:
        where = {"zone": instance.zone, "instance": instance.name}
        return self.change("instances", verb, instance.name, **where, **more)


def raise_failure(operation: Operation, project: str, doing: str) -> None:
    """Raise the error of an operation that failed; nothing for one that did not."""
    if operation.failure is not None:
        raise as_error(operation.failure, project=project, doing=doing)


def already_there(operation: Operation) -> bool:
    """Whether a creation was refused because a VM of that name is there."""
    failure = operation.failure
    if failure is None or failure.kind is not Kind.PERMANENT:
        return False
    return failure.http_status == 409 or failure.code in {
        "alreadyExists",
        "RESOURCE_ALREADY_EXISTS",
    }


def not_found(operation: Operation) -> bool:
    """Whether a change was refused because what was to be changed is not there any more."""
    failure = operation.failure
    return failure is not None and (
        failure.http_status == 404 or failure.code == "RESOURCE_NOT_FOUND"
    )
