"""Instances without machines: a thousand made in bulk, listed, filtered and deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually
from tests.harness.folders import public_folder
from vmctl.cloud.client import open_compute
from vmctl.cloud.compute.responses import aggregated
from vmctl.config import Project

COUNT, MINE = 1000, 25  # in all; in each zone
ZONES = ("europe-west1-b", "europe-west4-a", "us-central1-a", "europe-west2-a")
PROJECT = "/compute/v1/projects/many"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def many() -> Iterator[Emulator]:
    """An emulator without machines, and COUNT instances that run, a tenth of them mine."""
    emulator = Emulator(public_folder("contract"), "real", "--metadata-only").start()
    for place in ZONES:
        for owner, each in (("me", MINE), ("you", COUNT // len(ZONES) - MINE)):
            properties = PROPERTIES | {"labels": {"owner": owner}}
            bulk = {"count": each, "namePattern": "vm-###", "instanceProperties": properties}
            ask(emulator, "POST", f"zones/{place}/instances/bulkInsert", bulk)
    eventually(lambda: count(emulator) == {"RUNNING": COUNT}, "all run")
    yield emulator
    emulator.remove()


def ask(emulator: Emulator, method: str, path: str, body: Any = None, **query: Any) -> Json:
    answer: Json = emulator.ask(method, f"{PROJECT}/{path}?{urlencode(query)}", body)
    return answer


IMAGE = "projects/debian-cloud/global/images/family/debian-12"
PROPERTIES: Json = {
    "machineType": "e2-small",
    "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": IMAGE}}],
    "networkInterfaces": [{"accessConfigs": [{}]}],
}


def count(emulator: Emulator) -> Counter[str]:
    """How many there are in each state, from the admin route: the API's lists cost seconds."""
    return Counter(vm["status"] for vm in emulator.admin("GET", "status")["instances"])


def pages(emulator: Emulator, path: str, **query: Any) -> Iterator[Json]:
    token: Json = {}
    while True:
        page = ask(emulator, "GET", path, **query, **token)
        yield page
        if "nextPageToken" not in page:
            return
        token = {"pageToken": page["nextPageToken"]}


def listed(emulator: Emulator, **query: Any) -> list[Json]:
    """Every instance of all zones, by what aggregatedList says on all of its pages."""
    found = pages(emulator, "aggregated/instances", fields=f"nextPageToken,{NAMES}", **query)
    scopes = [scope for page in found for scope in page["items"].values()]
    return [vm for scope in scopes for vm in scope.get("instances", [])]


NAMES = "items/*/instances(name,status)"


def test_a_thousand_instances_are_listed_in_pages(many: Emulator) -> None:
    found = list(pages(many, f"zones/{ZONES[0]}/instances", maxResults=60))
    sizes = [len(page["items"]) for page in found]
    assert sizes == [60, 60, 60, 60, 10]
    vms = [vm for page in found for vm in page["items"]]
    assert [vm["name"] for vm in vms] == [f"vm-{n:03}" for n in range(1, 251)]
    nics = [vm["networkInterfaces"][0] for vm in vms]
    assert len({nic["networkIP"] for nic in nics}) == len(vms)
    assert len({nic["accessConfigs"][0]["natIP"] for nic in nics}) == len(vms)
    assert all("vmctl-ssh-port" not in str(vm["metadata"]) for vm in vms)


def test_they_are_filtered_over_all_zones(many: Emulator) -> None:
    assert len(listed(many)) == COUNT
    mine = listed(many, filter="status = RUNNING AND labels.owner = me")
    names = [f"vm-{n:03}" for n in range(1, MINE + 1) for _ in ZONES]
    assert sorted(vm["name"] for vm in mine) == names
    assert listed(many, filter="name = vm-007") == [{"name": "vm-007", "status": "RUNNING"}] * 4
    assert listed(many, filter="status != RUNNING") == []


def test_vmctl_reads_every_page(
    many: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMCTL_EMULATOR_HOME", str(many.home))
    project = Project(tmp_path, "x", "me", local=True, google_project="many")
    compute = open_compute(project)
    pages = list(compute.pages("instances", "aggregatedList"))
    compute._service.close()
    found = [vm for page in pages for vm in aggregated(page, "instances")]
    assert (len(pages), len(found)) == (2, COUNT)


def test_they_stop_start_and_go_without_a_machine(many: Emulator) -> None:
    places = [f"zones/{zone}/instances/vm-{n:03}" for zone in ZONES for n in range(1, 250, 50)]
    here = len(places)
    assert ask(many, "GET", f"{places[0]}/serialPort")["contents"] == ""
    for place in places:
        ask(many, "POST", f"{place}/stop")
    eventually(lambda: count(many)["TERMINATED"] == here, "they are off")
    for place in places[:5]:
        ask(many, "POST", f"{place}/start")
    running = COUNT - here + 5
    eventually(lambda: count(many)["RUNNING"] == running, "five are back")
    for place in places:
        ask(many, "DELETE", place)
    eventually(lambda: count(many) == {"RUNNING": COUNT - here}, "they are deleted")


def test_the_home_keeps_the_mode_as_long_as_it_has_instances(many: Emulator) -> None:
    before = count(many)
    ask(many, "POST", f"zones/{ZONES[0]}/instances/vm-002/suspend")
    eventually(lambda: count(many)["SUSPENDED"] == 1, "one is suspended")
    many.stop()
    many.words.remove("--metadata-only")
    many.start()
    assert many.about["mode"] == "metadata-only"
    # a suspended one has lost its memory with the emulator
    after = before + Counter({"TERMINATED": 1}) - Counter({"RUNNING": 1})
    eventually(lambda: count(many) == after, "they are all there")
