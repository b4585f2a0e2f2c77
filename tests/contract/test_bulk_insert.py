"""Many instances by one call, from properties or a template: all of them or none."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from googleapiclient.errors import HttpError

from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually
from tests.harness.folders import public_folder

from .conftest import ZONE, Cloud

Json = dict[str, Any]
IMAGE = "projects/debian-cloud/global/images/family/debian-12"
PROPERTIES: Json = {
    "machineType": "n1-standard-2",
    "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": IMAGE}}],
    "networkInterfaces": [{"accessConfigs": [{}]}],
    "labels": {"made": "in-bulk"},
}


@pytest.fixture(scope="module")
def without_machines() -> Iterator[Emulator]:
    made = Emulator(public_folder("contract"), "real", "--metadata-only").start()
    yield made
    made.remove()


@pytest.fixture
def bulk(without_machines: Emulator) -> Cloud:
    """A project of the test's own."""
    return Cloud(without_machines, f"p-{uuid.uuid4().hex[:10]}")


def ask(cloud: Cloud, **body: Any) -> Json:
    request = cloud.api.instances().bulkInsert(project=cloud.project, zone=ZONE, body=body)
    operation: Json = request.execute()
    return operation


def saved(cloud: Cloud, collection: str = "instances", **query: Any) -> list[Json]:
    calls = getattr(cloud.api, collection)()
    return list(calls.list(project=cloud.project, zone=ZONE, **query).execute().get("items", ()))


def names(cloud: Cloud) -> list[str]:
    return [vm["name"] for vm in saved(cloud)]


def test_they_are_numbered_on_and_each_has_an_operation_in_the_group(bulk: Cloud) -> None:
    for expected in (["vm-01", "vm-02"], ["vm-01", "vm-02", "vm-03"]):
        count = len(expected) - len(names(bulk))
        operation = ask(bulk, count=count, namePattern="vm-##", instanceProperties=PROPERTIES)
        ended = bulk.wait(operation)
        assert "error" not in ended, ended
        assert names(bulk) == expected
        group = f'operationGroupId = "{operation["operationGroupId"]}"'
        found = saved(bulk, "zoneOperations", filter=group)
        kinds = sorted(one["operationType"] for one in found)
        assert kinds == ["bulkInsert", *["insert"] * count]
        assert {one["status"] for one in found} == {"DONE"}
        (status,) = ended["instancesBulkInsertOperationMetadata"]["perLocationStatus"].values()
        assert (status["targetVmCount"], status["createdVmCount"]) == (count, count)
    assert {vm["status"] for vm in saved(bulk)} == {"RUNNING"}
    assert {vm["labels"]["made"] for vm in saved(bulk)} == {"in-bulk"}
    assert len({vm["networkInterfaces"][0]["networkIP"] for vm in saved(bulk)}) == 3
    assert [disk["name"] for disk in saved(bulk, "disks")] == names(bulk)


def test_named_ones_come_from_a_template_with_changes(bulk: Cloud) -> None:
    templates, where = bulk.api.instanceTemplates(), {"project": bulk.project}
    body = {"name": "two-cores", "properties": PROPERTIES}
    bulk.wait(templates.insert(**where, body=body).execute())
    assert [found["name"] for found in templates.list(**where).execute()["items"]] == ["two-cores"]
    ended = bulk.wait(
        ask(
            bulk,
            perInstanceProperties={"a": {"hostname": "a.example.org"}, "b": {}},
            sourceInstanceTemplate="global/instanceTemplates/two-cores",
            instanceProperties={"labels": {"more": "labels"}, "machineType": "n1-standard-4"},
        )
    )
    assert "error" not in ended, ended
    first, second = saved(bulk)
    assert (first["name"], first["hostname"], second["name"]) == ("a", "a.example.org", "b")
    assert second["labels"] == {"made": "in-bulk", "more": "labels"}
    assert second["machineType"].endswith("/n1-standard-4")

    template = f"projects/{bulk.project}/global/instanceTemplates/two-cores"
    bulk.wait(bulk.insert({"name": "c"}, sourceInstanceTemplate=template))
    assert bulk.get("c")["machineType"].endswith("/n1-standard-2")
    bulk.wait(templates.delete(**where, instanceTemplate="two-cores").execute())
    with pytest.raises(HttpError, match="was not found"):
        templates.get(**where, instanceTemplate="two-cores").execute()


def test_a_killed_emulator_makes_the_rest_at_its_next_start(
    own_emulator: Callable[..., Emulator],
) -> None:
    emulator = own_emulator("real", "--metadata-only")
    cloud = Cloud(emulator, "killed")
    with emulator.fault(kind="slow-boot", seconds=86_400):
        operation = ask(cloud, count=2, namePattern="vm-#", instanceProperties=PROPERTIES)
        eventually(lambda: {vm["status"] for vm in saved(cloud)} == {"STAGING"}, "they wait")
    emulator.stop(signal.SIGKILL)
    emulator.start()
    eventually(lambda: {vm["status"] for vm in saved(cloud)} == {"RUNNING"}, "they run")
    assert names(cloud) == ["vm-1", "vm-2"]
    group = f'operationGroupId = "{operation["operationGroupId"]}"'
    found = saved(cloud, "zoneOperations", filter=group)
    assert [(one["status"], "error" in one) for one in found] == [("DONE", False)] * 3


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"kind": "stockout", "zone": ZONE, "calls": 1}, "ZONE_RESOURCE_POOL_EXHAUSTED"),
        (
            {"kind": "quota", "metric": "CPUS", "region": ZONE[:-2], "limit": 5},
            "QUOTA_EXCEEDED",
        ),
    ],
)
def test_a_refusal_of_one_is_a_refusal_of_all_unless_fewer_will_do(
    bulk: Cloud, fault: Json, code: str
) -> None:
    asked: Json = {"namePattern": "vm-#", "instanceProperties": PROPERTIES}
    with bulk.emulator.fault(**fault):
        operation = ask(bulk, count=3, **asked)
        ended = bulk.wait(operation)
        assert code in ended["error"]["errors"][0]["code"], ended
        assert (names(bulk), saved(bulk, "disks")) == ([], [])
        group = f'operationGroupId = "{operation["operationGroupId"]}"'
        assert all("error" in one for one in saved(bulk, "zoneOperations", filter=group))
    with bulk.emulator.fault(**fault):
        ended = bulk.wait(ask(bulk, count=3, minCount=2, **asked))
        assert "error" not in ended, ended
        assert len(names(bulk)) == len(saved(bulk, "disks")) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"namePattern": ""}, "Either namePattern or perInstanceProperties"),
        ({"namePattern": "vm"}, "one continuous sequence"),
        ({"namePattern": "vm-#-#"}, "one continuous sequence"),
        ({"namePattern": "#"}, "resource.name"),
        ({"namePattern": "vm-#", "count": 10}, "too few digits"),
        ({"count": 0}, "Must be between 1 and 1000"),
        ({"count": 1001, "namePattern": "vm-####"}, "Must be between 1 and 1000"),
        ({"minCount": 3}, "resource.minCount"),
        ({"perInstanceProperties": {"a": {}, "b": {}, "c": {}}}, "as count"),
        ({"perInstanceProperties": {"vm-here": {}}}, "already exists"),
        ({"instanceProperties": {}}, "Instance properties are required"),
        ({"instanceProperties": PROPERTIES | {"machineType": "n1-none"}}, "does not exist"),
        ({"sourceInstanceTemplate": "global/instanceTemplates/none"}, "cannot be found"),
        ({"locationPolicy": {"sizes": 1}}, "Unknown name"),
    ],
)
def test_what_is_malformed_leaves_nothing(bulk: Cloud, change: Json, words: str) -> None:
    bulk.create(bulk.body("vm-here"))
    body = {"count": 2, "namePattern": "vm-##", "instanceProperties": PROPERTIES} | change
    with pytest.raises(HttpError, match=words) as refused:
        ask(bulk, **body)
    assert refused.value.status_code == (409 if words == "already exists" else 400)
    assert names(bulk) == ["vm-here"]
    assert [disk["name"] for disk in saved(bulk, "disks")] == ["vm-here"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machineType": f"zones/{ZONE}/machineTypes/e2-small"}, "name of a machine type"),
        ({"disks": []}, "resource.properties.disks"),
        ({"networkInterfaces": []}, "resource.properties.networkInterfaces"),
        ({"labels": {"A": "b"}}, "resource.properties.labels"),
    ],
)
def test_a_template_that_nothing_can_be_made_from_is_refused(
    bulk: Cloud, change: Json, words: str
) -> None:
    templates, where = bulk.api.instanceTemplates(), {"project": bulk.project}
    with pytest.raises(HttpError, match=words):
        templates.insert(**where, body={"name": "t", "properties": PROPERTIES | change}).execute()
    assert "items" not in templates.list(**where).execute()
