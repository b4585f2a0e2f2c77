"""A month of a forgetful student: nothing outlives its limit, and the bill is the cloud's own."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from tests.harness.eventually import eventually
from tests.harness.stepped_clock import SteppedCloud

TOML = """
idle = "1h"
max_hours = 12
[jobs.long]
command = "while :; do sleep 0.2; done"
[jobs.short]
command = "echo trained"
"""
DAY_H = 24.0
VM, SPOT = "tester-month", "tester-spotty"


class Student:
    """Somebody who starts machines and forgets them; each habit begins on its day."""

    def __init__(self, cloud: SteppedCloud) -> None:
        self.cloud = cloud
        self.begin = cloud.whole_second()

    def wait_for(self, day: float) -> None:
        """Nobody does anything until that day; machines that are on are watched meanwhile."""
        until = self.begin + timedelta(days=day)
        while any(vm["status"] == "RUNNING" for vm in self.cloud.machines()):
            self.cloud.live(0.2)
            assert self.cloud.now() < until, "something is on that should have stopped"
        self.cloud.jump((until - self.cloud.now()).total_seconds())
        self.cloud.no_overdue()


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_month_of_a_forgetful_student() -> None:
    with SteppedCloud.opened("month", toml=TOML) as cloud:
        student = Student(cloud)

        cloud("up")  # day 0: trains something, and forgets the machine
        cloud("push")
        cloud("run", "short")
        cloud.live(0.4)
        student.wait_for(1.5)

        cloud("up")  # starts a long run, shuts the laptop: Google's limit ends it
        cloud("run", "--detach", "long")
        cloud.live(0.2)
        for _ in range(11):
            cloud.jump(3600)
            cloud.settled()
            cloud.no_overdue()
        cloud.jump(3600)
        cloud.off()
        student.wait_for(3)

        cloud("up")  # stopped from the console, started from the console, and forgotten
        cloud.live(0.6)
        cloud.on(VM, "stop")
        cloud.jump(5 * 3600)
        cloud.on(VM, "start")
        cloud.settled()
        student.wait_for(5)

        cloud("up")  # its host fails
        cloud.live(0.5)
        cloud.admin("crash", VM)
        cloud.jump(3600)
        cloud("up")  # and is shut down from inside
        cloud.live(0.3)
        cloud("exec", "--", "sudo", "shutdown", "-h", "now", code=None)
        cloud.off()
        student.wait_for(8)

        cloud("-n", "spotty", "up", "--spot")  # taken back by Google
        cloud.live(0.7)
        cloud.admin("preempt", SPOT)
        cloud.jump(30 * 3600)
        cloud("-n", "spotty", "up", "--spot")  # started again, and deleted in the console
        cloud.live(0.2)
        cloud.on(SPOT, "", method="DELETE")
        student.wait_for(12)

        labels = {"vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "month"}
        disk = cloud.machine()["disks"][0]["source"].partition("projects/vmctl-local/")[2]
        cloud.api("POST", f"{disk}/createSnapshot", {"name": "kept", "labels": labels})
        cloud.api("POST", "regions/europe-west1/addresses", {"name": "door", "labels": labels})
        eventually(lambda: cloud.api("GET", "global/snapshots/kept")["status"] == "READY")
        cloud("cost")
        cloud.jump(3 * 86400)
        cloud.api("DELETE", "regions/europe-west1/addresses/door")

        cloud("up")  # the computer with the machines sleeps: nobody looks for five hours
        cloud.live(0.2)
        cloud.jump(5 * 3600)
        cloud.settled()
        student.wait_for(18)
        cloud("down", "--delete", "--yes")

        cloud.stop()  # switched off and on: what is older than two weeks is forgotten
        cloud.start()
        cloud("up")  # a new one; "down" at last, and its disk is forgotten
        cloud.live(0.5)
        told = cloud("down").stdout
        assert "This start: about $" in told
        assert "an estimate by list prices" in told
        student.wait_for(30)

        since = student.begin.isoformat()
        found = json.loads(cloud("--json", "cost", "--all", "--since", since).stdout)
        books = cloud.ask("POST", "/emulator/v1/books", {"since": since, "until": found["until"]})
        assert not books["unpriced"]
        assert found["prices_missing"] == 0
        assert found["usd"] == round(books["usd"], 2)
        assert found["usd"] > 15
        parts = [(vm["machine_usd"] + vm["address_usd"]) for vm in found["machines"]]
        on = sum(usd for path, usd in books["resources"].items() if "/instances/" in path)
        assert round(sum(parts), 2) == round(on, 2)

        limit = timedelta(hours=12)
        spans = [
            (datetime.fromisoformat(one["begin"]), datetime.fromisoformat(one["end"]))
            for one in books["starts"]
        ]
        assert len(spans) == 10
        assert max(end - begin for begin, end in spans) <= limit
        assert [run["job"] for run in found["runs"]] == ["short"]
        assert "an estimate by list prices" in cloud("cost", "--all", "--since", since).stdout
