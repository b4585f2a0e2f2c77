"""A suspended VM: every command says so and what to type, and `up` lets it run on."""

from __future__ import annotations

import json

from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually


def test_a_suspended_vm_is_said_to_be_so_and_up_resumes_it() -> None:
    with LocalCloud.opened("e2e", toml='[vm]\ngpu = "none"\nimage = "ubuntu"\n') as cloud:
        cloud("up", "--yes")
        cloud("exec", "tmux new -d -s kept 'sleep 999'")
        (vm,) = cloud.machines()
        place = f"zones/{vm['zone']}/instances/{vm['name']}"
        cloud.api("POST", f"{place}/suspend")
        eventually(lambda: cloud.machines()[0]["status"] == "SUSPENDED", "it is suspended")

        said = cloud("status").stdout
        assert "SUSPENDED" in said and "Suspended: " in said and "Resume it: vmctl up" in said
        assert json.loads(cloud("status", "--json").stdout)["machine"]["usd_per_hour"] == 0
        assert "SUSPENDED" in cloud("ls").stdout
        for command in (["exec", "true"], ["down"]):
            refused = cloud(*command, code=4).stderr
            assert "suspended" in refused.lower() and "vmctl up" in refused, refused

        resumed = json.loads(cloud("up", "--yes", "--json").stdout)
        assert (resumed["action"], resumed["instance_id"]) == ("resumed", vm["id"])
        assert cloud("exec", "tmux ls -F '#S'").stdout.strip() == "kept"
