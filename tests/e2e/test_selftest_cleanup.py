"""What goes wrong in a self-test is one sentence, and what a killed one leaves is no secret."""

from __future__ import annotations

import json

from tests.harness.cloud import COLLECTIONS
from tests.harness.crash_points import HeldCloud


def test_a_connection_that_is_cut_at_its_first_question_is_one_sentence(cloud: HeldCloud) -> None:
    cloud.fault(kind="drop", method="compute.instances.list", when="before")
    told = cloud("selftest", "--trace", "trace.jsonl", "--json", code=7).stderr
    error = json.loads(told.splitlines()[-1])
    assert "does not answer" in error["message"]
    assert error["hint"]
    assert "Traceback" not in told
    assert cloud.all("instances") == []


def test_gc_knows_the_machine_that_a_killed_one_left_off() -> None:
    with HeldCloud.opened("selftest-left-off", name="crash") as cloud:
        method = "compute.instances.setScheduling"
        assert cloud.killed_at(2, "before", "selftest", method=method) == method
        (vm,) = cloud.all("instances")
        assert vm["status"] == "TERMINATED", "no run limit ends it"
        assert cloud.laptop.json("ls", "--orphans", cwd=cloud.folder)["orphans"] == []
        cloud("emulator", "stop")
        cloud("emulator", "start", "--clock", "stepped")
        cloud("emulator", "clock", "11m")
        (left,) = cloud.laptop.json("ls", "--orphans", cwd=cloud.folder)["orphans"]
        assert (left["kind"], left["name"]) == ("self-test's VM", vm["name"])
        assert left["usd_per_month"] > 0
        assert "Removed 1 thing: $1.00 a month less" in cloud("gc", "--yes").stdout
        for collection in COLLECTIONS:
            assert cloud.all(collection) == []
