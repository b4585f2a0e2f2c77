"""Questions that only a self-test asks Compute Engine: the same twice, too much, not allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmctl.cloud.compute import requests, responses
from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.errors import api_error_of, map_google_errors
from vmctl.cloud.transport import READ_RETRIES
from vmctl.domain.google.api_errors import ApiError
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.instance import Instance
from vmctl.domain.machine.instance_spec import InstanceSpec


class SelftestCompute(Compute):
    """The same project's machines, and what nobody but a self-test asks about them."""

    @classmethod
    def of(cls, compute: Compute) -> SelftestCompute:
        """Over the same connection."""
        return cls(
            compute._service,
            compute.project,
            compute._endpoint,
            connect=compute._connect,
            http=compute._http,
        )

    def insert_as(self, plan: InstanceSpec, request_id: str) -> Operation:
        """Ask for a VM that Google deletes at its run limit, under a chosen request ID."""
        body = _deleted_at_limit(requests.insert_body(plan))
        return self.change(
            "instances", "insert", plan.name, zone=plan.zone, body=body, request_id=request_id
        )

    def called(self, name: str) -> list[Instance]:
        """The VMs of this name, in all zones; no other is read."""
        return [
            responses.instance_of(item)
            for page in self.pages("instances", "aggregatedList", filter=f"name = {name}")
            for item in responses.aggregated(page, "instances")
            if item.get("name") == name
        ]

    def set_limit(self, instance: Instance, max_run_s: int) -> Operation:
        """Ask for another run limit, at which Google still deletes the VM."""
        body = {"scheduling": requests.scheduling_body(instance, max_run_s)}
        return self._on(instance, "setScheduling", body=_deleted_at_limit(body)["scheduling"])

    def set_metadata_under(self, instance: Instance, fingerprint: str) -> Operation:
        """Send a VM's metadata as it is, under a fingerprint of one's choice."""
        body = requests.metadata_body(instance, {}) | {"fingerprint": fingerprint}
        return self._on(instance, "setMetadata", body=body)

    def insert_disk(
        self, name: str, zone: str, kind: str, size_gb: int, labels: Mapping[str, str]
    ) -> Operation:
        """Ask for an empty disk."""
        body = {
            "name": name,
            "sizeGb": str(size_gb),
            "type": f"zones/{zone}/diskTypes/{kind}",
            "labels": dict(labels),
        }
        return self.change("disks", "insert", name, zone=zone, body=body)

    def ask(self, collection: str, verb: str, **arguments: Any) -> Mapping[str, Any] | None:
        """One reply as it is, None where Google finds nothing; the project may be another's."""
        arguments = {"project": self.project, **arguments}
        request = getattr(getattr(self._service, collection)(), verb)(**arguments)
        reply: Mapping[str, Any] | None = self._get(request, missing_ok=True)
        return reply

    def refusal(self, collection: str, verb: str, **arguments: Any) -> ApiError | None:
        """What Google says to a read that it should refuse; None when it answers.

        Raises why there was no answer at all.
        """
        from googleapiclient.errors import HttpError

        arguments = {"project": self.project, **arguments}
        request = getattr(getattr(self._service, collection)(), verb)(**arguments)
        request.http = self._http or request.http
        with map_google_errors(self.project, self._endpoint):
            try:
                request.execute(num_retries=READ_RETRIES)
            except HttpError as error:
                return api_error_of(error)
        return None


def _deleted_at_limit(body: dict[str, Any]) -> dict[str, Any]:
    """A self-test that nobody finishes must not leave a disk on the bill."""
    return body | {"scheduling": body["scheduling"] | {"instanceTerminationAction": "DELETE"}}
