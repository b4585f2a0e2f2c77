"""A thousand instances without machines: made, listed, filtered and deleted."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually
from tests.harness.folders import public_folder

COUNT = 1000
ZONES = ("europe-west1-b", "europe-west4-a", "us-central1-a", "europe-west2-a")
PROJECT = "/compute/v1/projects/many"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def many() -> Iterator[Emulator]:
    """An emulator without machines, and COUNT instances that run, a tenth of them mine."""
    emulator = Emulator(public_folder("contract"), "real", "--metadata-only").start()
    for number in range(COUNT):
        ask(emulator, "POST", f"zones/{zone_of(number)}/instances", body(number))
    eventually(lambda: len(listed(emulator, filter="status = RUNNING")) == COUNT, "all run")
    yield emulator
    emulator.remove()


def ask(emulator: Emulator, method: str, path: str, body: Any = None, **query: Any) -> Json:
    answer: Json = emulator.ask(method, f"{PROJECT}/{path}?{urlencode(query)}", body)
    return answer


def zone_of(number: int) -> str:
    return ZONES[number % len(ZONES)]


def body(number: int) -> Json:
    image = "projects/debian-cloud/global/images/family/debian-12"
    return {
        "name": f"vm-{number:04}",
        "machineType": f"zones/{zone_of(number)}/machineTypes/e2-small",
        "labels": {"owner": "me" if number % 10 == 0 else "you"},
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": image}}],
        "networkInterfaces": [{"accessConfigs": [{}]}],
    }


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
    assert [vm["name"] for vm in vms] == [f"vm-{n:04}" for n in range(0, COUNT, len(ZONES))]
    addresses = [vm["networkInterfaces"][0]["accessConfigs"][0]["natIP"] for vm in vms]
    assert len(set(addresses)) == len(vms)
    assert all("vmctl-ssh-port" not in str(vm["metadata"]) for vm in vms)


def test_they_are_filtered_over_all_zones(many: Emulator) -> None:
    assert len(listed(many)) == COUNT
    mine = listed(many, filter="status = RUNNING AND labels.owner = me")
    assert sorted(vm["name"] for vm in mine) == [f"vm-{n:04}" for n in range(0, COUNT, 10)]
    assert listed(many, filter="name = vm-0007") == [{"name": "vm-0007", "status": "RUNNING"}]
    assert listed(many, filter="status != RUNNING") == []


def test_they_stop_start_and_go_without_a_machine(many: Emulator) -> None:
    numbers = range(1, COUNT, 50)
    places = [f"zones/{zone_of(n)}/instances/vm-{n:04}" for n in numbers]

    def status_of(state: str) -> int:
        return len(listed(many, filter=f"status = {state}"))

    assert ask(many, "GET", f"{places[0]}/serialPort")["contents"] == ""
    for place in places:
        ask(many, "POST", f"{place}/stop")
    eventually(lambda: status_of("TERMINATED") == len(places), "they are off")
    for place in places[:5]:
        ask(many, "POST", f"{place}/start")
    eventually(functools.partial(lambda n: status_of("RUNNING") == n, COUNT - 15), "five are back")
    for place in places:
        ask(many, "DELETE", place)
    eventually(lambda: len(listed(many)) == COUNT - len(places), "they are deleted")


def test_the_home_keeps_the_mode_as_long_as_it_has_instances(many: Emulator) -> None:
    many.stop()
    many.words.remove("--metadata-only")
    many.start()
    assert many.about["mode"] == "metadata-only"
    assert len(listed(many, filter="status = RUNNING")) > COUNT / 2
