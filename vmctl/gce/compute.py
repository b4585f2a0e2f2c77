"""Compute Engine as vmctl uses it: domain values in, domain values out."""

from __future__ import annotations

import http.client
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from vmctl.domain.ending import EVENTS, SystemEvent
from vmctl.domain.errors import Conflict
from vmctl.domain.failure import Kind, as_error
from vmctl.domain.gpu import Gpu
from vmctl.domain.instance import NAME_LABEL, OWNER_LABEL, Instance, without_left
from vmctl.domain.machine import MachineType
from vmctl.domain.operation import Operation, refused
from vmctl.domain.plan import MachinePlan
from vmctl.gce import bodies, replies
from vmctl.gce.operations import event_of, operation_of
from vmctl.gce.translate import failure_of, translated

READ_RETRIES = 3  # googleapiclient waits 2, 4, 8 seconds at most before them
CHANGE_RETRIES = 2  # of the same request with the same requestId: Google does it once


class Compute:
    """One Google project's machines. One object per thread: httplib2 is not shared.

    Methods raise errors of vmctl's tree. Those that ask Google to do something return an
    Operation; a request refused at the door returns one that is done and failed.
    """

    def __init__(
        self,
        service: Any,
        project: str,
        endpoint: str = "",
        *,
        connect: Callable[[], Any] | None = None,
        http: Any = None,
    ) -> None:
        self._service = service
        self._endpoint = endpoint
        self._connect = connect
        self._http = http  # None: the service's own
        self._date = ""
        self.project = project

    def now(self, otherwise: datetime) -> datetime:
        """The service's time at its last answer, to the second; else what this computer says."""
        try:
            return parsedate_to_datetime(self._date).astimezone(UTC)
        except ValueError:
            return otherwise

    def _heard(self, response: Mapping[str, str]) -> None:
        self._date = response.get("date", self._date)

    def beside(self) -> Compute:
        """The same project over a connection of its own, for another thread."""
        connect = self._connect
        http = connect() if connect else None
        return Compute(self._service, self.project, self._endpoint, connect=connect, http=http)

    def pages(
        self, collection: str, verb: str = "list", *, project: str = "", **arguments: Any
    ) -> Iterator[Any]:
        """The replies of a method that only reads, page by page, such as `regions` `list`.

        `project` is another one than this, such as that of public images.
        """
        resource = getattr(self._service, collection)()
        request = getattr(resource, verb)(project=project or self.project, **arguments)
        following = getattr(resource, f"{verb}_next", None)
        while request is not None:
            reply = self._get(request)
            yield reply
            request = following(request, reply) if following else None

    # -- finding ----------------------------------------------------------------------------

    def find_instance(self, owner: str, name: str) -> Instance | None:
        """The VM that carries these labels, in whatever zone; None when there is none.

        While a move is under way it is the new one, once that exists. Raises Conflict when there
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
        return replies.instance_of(reply) if reply is not None else None

    def pending_insert(self, name: str) -> Operation | None:
        """An unfinished creation of a VM of this name in any zone, begun by an earlier call."""
        request = self._service.globalOperations().aggregatedList(
            project=self.project, filter="(operationType = insert) AND (status != DONE)"
        )
        while request is not None:
            reply = self._get(request)
            for item in replies.aggregated(reply, "operations"):
                operation = operation_of(item)
                is_vm = "/instances/" in item.get("targetLink", "")
                ours = is_vm and operation.kind == "insert" and operation.target == name
                if ours and not operation.is_done:
                    return operation
            request = self._service.globalOperations().aggregatedList_next(request, reply)
        return None

    def zones(self) -> list[str]:
        """All zones that Google has."""
        request = self._service.zones().list(project=self.project)
        names = []
        while request is not None:
            reply = self._get(request)
            names += [zone["name"] for zone in reply.get("items", [])]
            request = self._service.zones().list_next(request, reply)
        return sorted(names)

    def zones_with(self, gpu: Gpu) -> list[str]:
        """The zones that offer a GPU to this project, as Google says now."""
        request = self._service.acceleratorTypes().aggregatedList(
            project=self.project, filter=f"name = {gpu.accelerator}"
        )
        names = []
        while request is not None:
            reply = self._get(request)
            for item in replies.aggregated(reply, "acceleratorTypes"):
                if item.get("name") == gpu.accelerator:
                    names.append(replies.last_part(item["zone"]))
            request = self._service.acceleratorTypes().aggregatedList_next(request, reply)
        return sorted(names)

    # -- changing ---------------------------------------------------------------------------

    def insert(self, plan: MachinePlan) -> Operation:
        """Ask for a new VM."""
        request = self._service.instances().insert(
            project=self.project,
            zone=plan.zone,
            body=bodies.insert_body(plan),
            requestId=_request_id(),
        )
        return self._change("insert", plan.zone, plan.name, request)

    def start(self, instance: Instance) -> Operation:
        """Ask for a stopped VM to start."""
        return self._on(instance, "start", self._service.instances().start)

    def stop(self, instance: Instance) -> Operation:
        """Ask for a VM to stop; its disk stays."""
        # Google refuses to stop a VM with local SSDs unless told that their data may go.
        ssd = MachineType(instance.machine_type).has_local_ssd
        more = {"discardLocalSsd": True} if ssd else {}
        return self._on(instance, "stop", self._service.instances().stop, **more)

    def delete(self, instance: Instance) -> Operation:
        """Ask for a VM to go, with its boot disk."""
        return self._on(instance, "delete", self._service.instances().delete)

    def set_metadata(
        self,
        instance: Instance,
        changed: Mapping[str, str] | Callable[[Instance], Mapping[str, str]],
    ) -> Operation:
        """Ask for metadata items to change; fails with `conditionNotMet` if they changed since.

        Another's change in between (another `vmctl`, gcloud) is merged with, a few times; an item
        that holds more than ours, such as the keys, is told by a function of the VM as it is then.
        """
        for _ in range(3):
            items = changed(instance) if callable(changed) else changed
            body = bodies.metadata_body(instance, dict(items))
            operation = self._on(
                instance, "setMetadata", self._service.instances().setMetadata, body=body
            )
            if operation.failure is None or operation.failure.http_status != 412:
                return operation
            fresh = self.get_instance(instance.zone, instance.name)
            if fresh is None:
                return operation
            instance = fresh
        return operation

    def set_labels(self, instance: Instance, changed: Mapping[str, str | None]) -> Operation:
        """Ask for labels to change (None: to go); what others changed meanwhile is merged with."""
        for _ in range(3):
            body = bodies.labels_body(instance, changed)
            operation = self._on(
                instance, "setLabels", self._service.instances().setLabels, body=body
            )
            if operation.failure is None or operation.failure.http_status != 412:
                return operation
            fresh = self.get_instance(instance.zone, instance.name)
            if fresh is None:
                return operation
            instance = fresh
        return operation

    def set_run_limit(self, instance: Instance, max_run_s: int) -> Operation:
        """Ask for another run limit; Google allows it only while the VM is stopped."""
        return self._on(
            instance,
            "setScheduling",
            self._service.instances().setScheduling,
            body=bodies.scheduling_body(instance, max_run_s),
        )

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
        return replies.host_keys_of(reply) if reply is not None else []

    def serial_output(self, instance: Instance) -> str:
        """What the VM wrote to its first serial port, at most the last megabyte."""
        reply = self._get(
            self._service.instances().getSerialPortOutput(
                project=self.project, zone=instance.zone, instance=instance.name, port=1
            )
        )
        return str(reply.get("contents", ""))

    # -- the wire ----------------------------------------------------------------------------

    def _labelled(self, labels: Mapping[str, str]) -> Iterator[Instance]:
        wanted = " AND ".join(f"(labels.{key} = {value})" for key, value in labels.items())
        request = self._service.instances().aggregatedList(project=self.project, filter=wanted)
        while request is not None:
            reply = self._get(request)
            for item in replies.aggregated(reply, "instances"):
                instance = replies.instance_of(item)
                # trust no filter with somebody else's machine
                if all(instance.labels.get(key) == value for key, value in labels.items()):
                    yield instance
            request = self._service.instances().aggregatedList_next(request, reply)

    def change(
        self, kind: str, name: str, *, collection: str, verb: str, **arguments: Any
    ) -> Operation:
        """Ask for a change of anything but a VM, such as `snapshots` `delete`."""
        method = getattr(getattr(self._service, collection)(), verb)
        request = method(project=self.project, requestId=_request_id(), **arguments)
        return self._change(kind, str(arguments.get("zone", "")), name, request)

    def _on(self, instance: Instance, kind: str, method: Any, **more: Any) -> Operation:
        request = method(
            project=self.project,
            zone=instance.zone,
            instance=instance.name,
            requestId=_request_id(),
            **more,
        )
        return self._change(kind, instance.zone, instance.name, request)

    def _change(self, kind: str, zone: str, name: str, request: Any) -> Operation:
        from googleapiclient.errors import HttpError

        request.http = self._http or request.http
        request.add_response_callback(self._heard)
        with translated(self.project, self._endpoint):
            try:
                reply = _execute(request, CHANGE_RETRIES)
            except HttpError as error:
                return refused(kind, zone, name, failure_of(error))
        return operation_of(reply)

    def _get(self, request: Any, *, missing_ok: bool = False) -> Any:
        """A read; with `missing_ok` a 404 is None, else everything refused is raised."""
        from googleapiclient.errors import HttpError

        request.http = self._http or request.http
        request.add_response_callback(self._heard)
        with translated(self.project, self._endpoint):
            try:
                return _execute(request, READ_RETRIES)
            except HttpError as error:
                if missing_ok and error.resp.status == 404:
                    return None
                raise


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


def _execute(request: Any, retries: int) -> Any:
    """Send a request and read its answer; what may be repeated is, `retries` times.

    googleapiclient retries 429, 5xx and lost connections, but not an answer cut off in its
    middle. Repeating is safe for changes, too: the request carries its requestId.
    """
    for left in reversed(range(retries + 1)):
        try:
            return request.execute(num_retries=retries)
        except http.client.HTTPException:
            request.http.close()  # whatever still comes on that connection is not wanted
            if left == 0:
                raise
    raise AssertionError("the last attempt returns or raises")


def _request_id() -> str:
    """Fresh for every attempt: a derived one would replay an old answer, such as a stockout."""
    return str(uuid.uuid4())
