"""What the emulator does with bad input: a 400 in Google's words, and nothing is saved."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.harness.api import PROJECT, REGION, ZONE, Api, instance, open_api
from vmctl.emulator.http import urls
from vmctl.emulator.http.discovery import Discovery
from vmctl.emulator.resources import handlers
from vmctl.emulator.store import Key, Record, Store

Json = dict[str, Any]
RULE: Json = {"name": "rule", "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}]}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with open_api(tmp_path_factory.mktemp("api")) as opened:
        opened.done("POST", f"zones/{ZONE}/instances", instance())
        yield opened


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["ssh"]}]}, "allowed[0].ports[0]': 'ssh'"),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["70000"]}]}, "ports[0]': '70000'"),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["30-20"]}]}, "ports[0]': '30-20'"),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["22-"]}]}, "ports[0]': '22-'"),
        ({"allowed": [{"IPProtocol": "icmp", "ports": ["22"]}]}, "Ports may only be specified"),
        ({"allowed": [{"ports": ["22"]}]}, "Required field 'resource.allowed[0].IPProtocol'"),
        ({"allowed": [{"IPProtocol": "carrier-pigeon"}]}, "IPProtocol': 'carrier-pigeon'"),
        ({"allowed": []}, "Exactly one of allowed and denied"),
        ({"sourceRanges": ["banana"]}, "Invalid value for field 'resource.sourceRanges[0]'"),
        ({"sourceRanges": ["10.0.0.0/33"]}, "sourceRanges[0]': '10.0.0.0/33'"),
        ({"priority": 99999}, "priority': '99999'. Must be between 0 and 65535, inclusive"),
        ({"priority": 2**40}, "(TYPE_INT32)"),
        ({"targetTags": ["A B"]}, "Invalid value for field 'resource.targetTags[0]'"),
        ({"direction": "EGRESS", "sourceRanges": ["0.0.0.0/0"]}, "direction EGRESS"),
    ],
)
def test_a_firewall_rule_that_means_nothing_is_refused_and_not_saved(
    api: Api, change: Json, message: str
) -> None:
    status, reply = api.call("POST", "global/firewalls", RULE | change)
    assert (status, message in reply["error"]["message"]) == (400, True), reply
    assert api.call("GET", "global/firewalls/rule")[0] == 404


def test_a_firewall_rule_keeps_its_identity_when_it_is_changed(api: Api) -> None:
    api.done("POST", "global/firewalls", RULE | {"id": "5", "kind": "k", "selfLink": "x"})
    made = api.call("GET", "global/firewalls/rule")[1]
    assert made["kind"] == "compute#firewall" and made["id"] != "5"
    for verb in ("PATCH", "PUT"):
        status, _ = api.call(verb, "global/firewalls/rule", {"priority": 70000})
        assert status == 400
        api.done(verb, "global/firewalls/rule", RULE | {"priority": 7, "denied": []})
        changed = api.call("GET", "global/firewalls/rule")[1]
        assert changed == made | {"priority": 7}
    api.done("DELETE", "global/firewalls/rule")


@pytest.mark.parametrize(
    ("method", "path", "query", "message"),
    [
        ("POST", "setDiskAutoDelete", {}, "Required field 'autoDelete' not specified"),
        (
            "POST",
            "setDiskAutoDelete",
            {"autoDelete": "true"},
            "Required field 'deviceName' not specified",
        ),
        (
            "POST",
            "setDiskAutoDelete",
            {"autoDelete": "perhaps", "deviceName": "d"},
            "Invalid value at 'auto_delete' (TYPE_BOOL), \"perhaps\"",
        ),
        ("GET", "serialPort", {"port": "one"}, "Invalid value at 'port' (TYPE_INT32), \"one\""),
        ("GET", "serialPort", {"start": "9" * 30}, "Invalid value at 'start' (TYPE_INT64)"),
    ],
)
def test_parameters_are_held_to_the_document(
    api: Api, method: str, path: str, query: Json, message: str
) -> None:
    status, reply = api.call(method, f"zones/{ZONE}/instances/vm1/{path}", **query)
    assert (status, message in reply["error"]["message"]) == (400, True), reply


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": NaN}',
        b'{"name": "\\ud800"}',
        b'{"name": "\xed\xa0\x80"}',
        b'{"name": "\xff"}',
        b"[" * 100_000,
        b'{"name": ' + b"9" * 5000 + b"}",
        b'{"priority": 1e999}',
    ],
    ids=["NaN", "escaped surrogate", "surrogate", "latin-1", "deep", "digits", "infinity"],
)
def test_what_is_no_json_is_refused(api: Api, body: bytes) -> None:
    assert api.call("POST", "global/firewalls", body)[0] == 400


def test_a_saved_rule_that_cannot_be_read_stops_no_machine(tmp_path: Path) -> None:
    with open_api(tmp_path) as api:
        api.call("GET", "global/firewalls")
        for number, wrong in enumerate(
            ({"allowed": [{"IPProtocol": "tcp", "ports": ["ssh"]}]}, {"sourceRanges": ["banana"]})
        ):
            body = api.store.find("firewalls", PROJECT)[0].body | {"priority": number} | wrong
            api.store.save(Record(Key(PROJECT, "firewalls", urls.GLOBAL, f"bad{number}"), body))
        operation = api.done("POST", f"zones/{ZONE}/instances", instance())
        assert "error" not in operation
        assert api.cloud.firewall.is_open(api.store.find("instances")[0])


def test_a_saved_resource_that_lacks_parts_is_set_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(Record(Key(PROJECT, "instances", f"zones/{ZONE}", "vm1"), {"name": "vm1"}))
    again = Store(tmp_path)
    assert again.find("instances") == []
    assert [file.name for file in again.unreadable()] == ["vm1.json.unreadable"]


# --- inputs made from the document --------------------------------------------------------------

ODD: list[Any] = [
    None, True, 0, -1, 1.5, 10**30, "", " ", "-", "é", "x" * 300, "../..", "a/b", "projects//x",
    "\x00", "https://", "zones/nowhere/disks/d", "1", [], [[]], {}, {"a": {}}, "family/", "*",
    "0.0.0.0/0", "999999999999999999", "true", f"zones/{ZONE}/machineTypes/n1-standard-2",
]  # fmt: skip
TARGETS = {
    "project": PROJECT, "zone": ZONE, "region": REGION, "instance": "vm1", "disk": "vm1",
    "resource": "vm1", "firewall": "default-allow-ssh", "network": "default", "image": "debian-12",
    "subnetwork": "default", "machineType": "n1-standard-1", "family": "debian-12",
    "bucket": "photos", "object": "one", "sourceBucket": "photos", "sourceObject": "one",
    "destinationBucket": "photos", "destinationObject": "two",
}  # fmt: skip
PROPERTIES = {k: v for k, v in instance().items() if k != "name"} | {"machineType": "e2-small"}
GOOD: dict[str, Json] = {
    "compute.instances.insert": instance(
        labels={"a": "b"},
        tags={"items": ["a"]},
        metadata={"items": [{"key": "a", "value": "b"}]},
        guestAccelerators=[{"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": 1}],
        scheduling={"onHostMaintenance": "TERMINATE", "maxRunDuration": {"seconds": "60"}},
    ),
    "compute.disks.insert": {"name": "d", "sizeGb": "10", "type": "pd-ssd"},
    "compute.firewalls.insert": RULE,
    "compute.firewalls.update": RULE,
    "compute.firewalls.patch": RULE,
    "compute.addresses.insert": {"name": "a"},
    "compute.snapshots.insert": {"name": "s", "sourceDisk": f"zones/{ZONE}/disks/vm1"},
    "compute.disks.createSnapshot": {"name": "s"},
    "compute.instances.setMachineType": {"machineType": f"zones/{ZONE}/machineTypes/e2-small"},
    "compute.instances.setMachineResources": {
        "guestAccelerators": [{"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": 1}]
    },
    "compute.instances.setServiceAccount": {"email": "default", "scopes": []},
    "compute.instances.setMinCpuPlatform": {"minCpuPlatform": "Intel Skylake"},
    "compute.instances.updateShieldedInstanceConfig": {"enableSecureBoot": True},
    "compute.instances.addAccessConfig": {"name": "External NAT"},
    "compute.instances.attachDisk": {"source": f"zones/{ZONE}/disks/spare"},
    "compute.disks.resize": {"sizeGb": "20"},
    "compute.instances.testIamPermissions": {"permissions": ["compute.instances.get"]},
    "compute.images.insert": {"name": "i", "sourceDisk": f"zones/{ZONE}/disks/vm1"},
    "compute.instances.bulkInsert": {
        "count": "2",
        "namePattern": "b##",
        "instanceProperties": PROPERTIES,
    },
    "compute.instanceTemplates.insert": {"name": "t", "properties": PROPERTIES},
    "storage.buckets.insert": {"name": "photos", "location": "europe-west4"},
    "storage.objects.compose": {"sourceObjects": [{"name": "one"}, {"name": "one"}]},
    "storage.objects.patch": {"metadata": {"k": "v"}, "contentType": "text/plain"},
}


class Inputs:
    """Calls of every method: some right, most of them wrong in one or a few places."""

    def __init__(self, api: Api, seed: int, service: str = "compute") -> None:
        self.api, self.random = api, random.Random(seed)
        document = Discovery.load(f"{service}.v1")
        routes = document._routes.values()
        methods = {method.id: method for several in routes for method in several}
        served = [methods[name] for name in sorted(handlers()) if name.startswith(service)]
        self.methods = [*served * 40, *(methods[name] for name in sorted(methods))]
        self.schemas = document._schemas

    def make(self) -> tuple[str, str, str, Json]:
        """An HTTP method, a path, a query and a body."""
        method, chance = self.random.choice(self.methods), self.random.random
        path = "/".join(
            quote(self.text(TARGETS.get(part[1:-1], "x")), safe="") if part[0] == "{" else part
            for part in method.segments
        )
        query = {
            name: self.text("1") if parameter["type"] == "string" else self.text("true")
            for name, parameter in method.parameters.items()
            if parameter["location"] == "query" and chance() < 0.2 and name != "requestId"
        }
        body: Json = {}
        if method.request:
            if chance() < 0.6:
                body = copy.deepcopy(GOOD.get(method.id, {}))
            schema = {"$ref": method.request}
            if not body or chance() < 0.3:
                body |= self.value(schema, 0)
            for _ in range(self.random.randrange(3)):
                self.spoil(body)
            if "name" in body and chance() < 0.5:
                body["name"] = f"n{self.random.randrange(10**6)}"
        return method.http_method, path, urlencode(query), body

    def text(self, usual: str) -> str:
        return usual if self.random.random() < 0.8 else str(self.odd())

    def odd(self) -> Any:
        return copy.deepcopy(self.random.choice(ODD))

    def value(self, schema: Json, depth: int) -> Any:
        schema = self.schemas[schema["$ref"]] if "$ref" in schema else schema
        if self.random.random() < 0.05:
            return {} if depth == 0 else self.odd()
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "object":
            names = sorted(schema.get("properties", {}))
            some = self.random.sample(names, min(len(names), self.random.randrange(5)))
            return {n: self.value(schema["properties"][n], depth + 1) for n in some if depth < 4}
        if kind == "array":
            return [self.value(schema["items"], depth + 1)] if depth < 4 else []
        if kind == "string":
            return self.random.choice(["x", "1", "default", ZONE, f"zones/{ZONE}/disks/vm1", "a b"])
        return self.random.random() < 0.5 if kind == "boolean" else self.random.randrange(-2, 9)

    def spoil(self, value: Any) -> None:
        """Replace or drop one part, somewhere within."""
        while value:
            places: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
            place = self.random.choice(places)
            inner = value[place]
            if not isinstance(inner, (dict, list)) or not inner or self.random.random() < 0.3:
                if self.random.random() < 0.3:
                    del value[place]
                else:
                    value[place] = self.odd()
                return
            value = inner


def _try_inputs(folder: Path, seed: int, count: int) -> None:
    with open_api(folder) as api:
        api.done("POST", f"zones/{ZONE}/instances", instance())
        api.done("POST", f"zones/{ZONE}/disks", {"name": "spare", "sizeGb": "10"})
        for path in ("global/firewalls", ""):
            api.call("GET", path)
        inputs = Inputs(api, seed)
        for number in range(count):
            http_method, path, query, body = inputs.make()
            where = f"seed {seed}, input {number}: {http_method} {path}?{query} {body!r}"
            before = _saved(api)
            status, reply = api.send(http_method, path, query, body)
            assert status < 500, f"{where} -> {reply}"
            if reply.get("kind") == "compute#operation":
                scope = path.split("/")[2:4] if "/zones/" in path or "/regions/" in path else []
                assert "/".join(["", *scope, "operations", ""]) in reply["selfLink"], where
            if status >= 400:
                assert _saved(api) <= before, f"{where} -> {reply}, and it left something"
        assert api.call("POST", f"zones/{ZONE}/instances", instance("last"))[0] == 200
        assert api.call("GET", "aggregated/instances")[0] == 200
        assert Store(api.store.folder).unreadable() == []


def _saved(api: Api) -> set[Key]:
    """What is saved, but for operations and what each project has by itself."""
    kept = api.store._records
    found = {key for name, keys in kept.items() if name != "operations" for key in keys}
    return {key for key in found if not key.name.startswith("default") and key.name != key.project}


def test_no_input_breaks_the_emulator(tmp_path: Path) -> None:
    _try_inputs(tmp_path, seed=1, count=300)


def test_no_input_breaks_the_buckets(tmp_path: Path) -> None:
    _try_bucket_inputs(tmp_path, seed=1, count=300)


def _try_bucket_inputs(folder: Path, seed: int, count: int) -> None:
    with open_api(folder) as api:
        inputs = Inputs(api, seed, "storage")
        for number in range(count):
            if number % 20 == 0:
                api.send("POST", "b", "project=p1", {"name": "photos"}, "storage")
                part = api.cloud.storage.parts / "part"
                part.write_bytes(b"content")
                api.run(api.cloud.storage.put("photos", "one", part, {}, lambda there, sums: None))
            http_method, path, query, body = inputs.make()
            where = f"seed {seed}, input {number}: {http_method} {path}?{query} {body!r}"
            status, reply = api.send(http_method, path, query, body, "storage")
            assert status < 500, f"{where} -> {reply}"
        assert api.send("GET", "b/photos/o", "", None, "storage")[0] in (200, 404)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(2, 12))
def test_none_of_many_inputs_breaks_the_buckets(tmp_path: Path, seed: int) -> None:
    _try_bucket_inputs(tmp_path, seed, count=1000)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(2, 12))
def test_none_of_many_inputs_breaks_the_emulator(tmp_path: Path, seed: int) -> None:
    _try_inputs(tmp_path, seed, count=1000)
