"""Suspended instances: their machine stands still, is not billed, and runs on."""

from __future__ import annotations

from typing import Any

import pytest
from googleapiclient.errors import HttpError

from tests.harness.eventually import eventually

from .conftest import GUEST_ATTRIBUTES, ZONE, Cloud, Key, host_keys, nat_ip

COUNT = "echo $$ >pid; while :; do echo x >>beats; sleep 0.02; done"


def test_a_suspended_machine_stands_still_and_runs_on(cloud: Cloud, key: Key) -> None:
    vm = cloud.create(cloud.body(metadata={"items": [key.item, GUEST_ATTRIBUTES]}))
    keys = host_keys(cloud)
    started = key.run(vm, keys, f"tmux new -d -s it '{COUNT}'")
    assert started.returncode == 0, started.stderr
    beats = "cat pid; wc -l <beats"
    eventually(lambda: len(key.run(vm, keys, beats).stdout.split()) == 2, "it beats")

    assert "error" not in cloud.do("suspend")
    frozen = cloud.get()
    assert frozen["status"] == "SUSPENDED" and nat_ip(frozen) is None
    assert "lastSuspendedTimestamp" in frozen
    bill = cloud.emulator.admin("POST", "books", {})["starts"]
    (start,) = [line for line in bill if f"/{cloud.project}/" in line["path"]]
    assert start["end"] is not None
    assert "error" not in cloud.do("suspend")  # nothing to do
    for verb in ("stop", "reset", "start"):
        with pytest.raises(HttpError, match="is not ready"):
            cloud.do(verb)

    assert "error" not in cloud.do("resume")
    again = cloud.get()
    assert again["status"] == "RUNNING"
    pid, before = key.run(again, keys, beats).stdout.split()
    assert key.run(again, keys, f"kill -0 {pid}; tmux ls").stdout.startswith("it:")
    eventually(
        lambda: int(key.run(again, keys, beats).stdout.split()[1]) > int(before), "it beats on"
    )
    cloud.do("suspend")
    assert "error" not in cloud.do("delete")


def test_what_cannot_be_suspended_is_refused_and_unchanged(cloud: Cloud) -> None:
    scratch = {
        "type": "SCRATCH",
        "autoDelete": True,
        "initializeParams": {"diskType": f"zones/{ZONE}/diskTypes/local-ssd"},
    }
    gpu, ssd = cloud.gpu_body("gpu"), cloud.body("ssd")
    ssd |= {
        "disks": [*ssd["disks"], scratch],
        "machineType": f"zones/{ZONE}/machineTypes/n1-standard-1",
    }
    for body, words in ((gpu, "guest accelerators"), (ssd, "Local SSD"), (cloud.body(), "ready")):
        was: dict[str, Any] = cloud.granted(body)
        with pytest.raises(HttpError, match=words) as refused:
            cloud.do("suspend", body["name"])
        assert refused.value.status_code == 400
        assert cloud.get(body["name"]) == was


def test_a_dry_zone_leaves_a_machine_suspended(cloud: Cloud) -> None:
    cloud.create()
    cloud.do("suspend")
    with cloud.emulator.fault(kind="stockout", zone=ZONE):
        ended = cloud.do("resume")
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" in ended["error"]["errors"][0]["code"]
    assert cloud.status() == "SUSPENDED"
    assert "error" not in cloud.do("resume")
    assert cloud.status() == "RUNNING"
