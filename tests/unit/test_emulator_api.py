"""The emulator's methods by themselves, without machines: what they change and what they show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.api import PROJECT, ZONE, Api, instance, open_api
from vmctl.emulator.http import urls

Json = dict[str, Any]
VM = f"zones/{ZONE}/instances/vm1"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with open_api(tmp_path_factory.mktemp("api")) as opened:
        opened.done("POST", f"zones/{ZONE}/instances", instance())
        yield opened


def test_resources_are_found_by_their_numbers_too(api: Api) -> None:
    number = urls.project_number(PROJECT)
    status, operation = api.call("POST", f"{VM}/setLabels", _labels(api))
    assert status == 200
    for path in (VM, f"zones/{ZONE}/disks/vm1", f"zones/{ZONE}/operations/{operation['name']}"):
        one = api.call("GET", path)[1]
        by_id = f"{path.rpartition('/')[0]}/{one['id']}"
        assert api.call("GET", by_id)[1]["name"] == one["name"]
        assert api.send("GET", f"projects/{number}/{by_id}")[1]["name"] == one["name"]
    listed = api.send("GET", f"projects/{number}/zones/{ZONE}/instances")[1]
    assert listed["id"] == f"projects/{PROJECT}/zones/{ZONE}/instances"
    assert [one["name"] for one in listed["items"]] == ["vm1"]
    waited = api.call("POST", f"zones/{ZONE}/operations/{operation['id']}/wait")[1]
    assert waited["status"] == "DONE"
    assert api.send("GET", "projects/123456789012")[0] == 404


def test_a_change_by_number_is_a_change_of_the_named(api: Api) -> None:
    id_ = api.call("GET", VM)[1]["id"]
    api.done("POST", f"zones/{ZONE}/instances/{id_}/setLabels", _labels(api, a="b"))
    assert api.call("GET", VM)[1]["labels"] == {"a": "b"}


def test_a_global_method_starts_a_global_operation(api: Api) -> None:
    source = {"sourceDisk": f"projects/{PROJECT}/zones/{ZONE}/disks/vm1"}
    for path, where in (
        ("global/snapshots", "global"),
        (f"zones/{ZONE}/disks/vm1/createSnapshot", f"zones/{ZONE}"),
    ):
        name = where.replace("/", "-")
        status, operation = api.call("POST", path, {"name": name} | source)
        assert status == 200, operation
        assert f"/{where}/operations/" in operation["selfLink"]
        assert ("zone" in operation) == ("zones" in where)
        done = api.call("POST", f"{where}/operations/{operation['name']}/wait")[1]
        assert done["status"] == "DONE" and "error" not in done
        assert api.call("GET", f"global/snapshots/{name}")[1]["status"] == "READY"


def test_serial_output_goes_on_past_the_megabyte_that_is_kept(api: Api) -> None:
    def read(**start: int) -> tuple[int, str, int]:
        shown = api.call("GET", f"{VM}/serialPort", **start)[1]
        return int(shown["start"]), shown["contents"], int(shown["next"])

    line = "0123456789abcde\n"
    api.host.serial.write(line.encode() * 10)
    assert read(start=-20) == (140, "cde\n" + line, 160)
    assert read(start=-1000)[0] == read()[0] == 0
    heard = 160
    for _ in range(16):  # 4 MiB: what is kept is cut more than once
        api.host.serial.write(line.encode() * (1 << 14))
        start, contents, heard_now = read(start=heard)
        assert (start, len(contents), heard_now) == (heard, 1 << 18, heard + (1 << 18))
        heard = heard_now
    start, contents, end = read(start=0)
    assert (end, end - start, len(contents)) == (heard, 1 << 20, 1 << 20)
    assert read(start=end + 5) == (end, "", end)
    assert read(start=-16)[1] == line


def _labels(api: Api, **labels: str) -> Json:
    return {"labels": labels, "labelFingerprint": api.call("GET", VM)[1]["labelFingerprint"]}
