"""A VM whose python3 is too old for the watchdog: `status` says that there is none."""

from __future__ import annotations

from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually
from tests.harness.laptop import project

BASE = '[vm]\ngpu = "none"\nmachine = "e2-small"\nimage = "debian-cloud/debian-12"\n'
VM = "/compute/v1/projects/vmctl-local/zones/europe-west1-b/instances/tester-vm"
# Debian's own, without what came after 3.8: the version it tells, and dataclasses with slots
OLD = """\
import dataclasses, runpy, sys

def without_slots(cls=None, **options):
    if "slots" in options:
        raise TypeError("dataclass() got an unexpected keyword argument 'slots'")
    return newer(cls, **options)

newer, dataclasses.dataclass = dataclasses.dataclass, without_slots
sys.version_info = (3, 8, 10, "final", 0)
words = sys.argv[1:]
if words == ["--version"]:
    raise SystemExit(print("Python 3.8.10"))
while words[0] in ("-I", "-IB", "-IS", "-ISB", "-S"):
    del words[0]
if words[0] == "-c":
    sys.argv = ["-c", *words[2:]]
    exec(words[1], {"__name__": "__main__"})
else:
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
"""


def test_status_says_that_there_is_no_watchdog() -> None:
    with LocalCloud.opened("old-python") as cloud:
        project(cloud.folder, BASE)
        cloud("up")
        assert "has no watchdog" not in cloud("status").stdout
        (cloud.folder / "old.py").write_text(OLD)
        (cloud.folder / "python3").write_text(
            '#!/bin/sh\nexec /usr/bin/python3.11 -I /usr/local/lib/old.py "$@"\n'
        )
        cloud("push")
        cloud("exec", "sudo", "install", "-D", "old.py", "/usr/local/lib/old.py")
        cloud("exec", "sudo", "install", "python3", "/usr/local/bin/python3")
        cloud("down")
        cloud.ask("POST", f"{VM}/start")
        eventually(lambda: cloud.ask("GET", VM)["status"] == "RUNNING")
        words = "It has no watchdog (its Python 3.8 is older than 3.10)"
        told = eventually(
            lambda: next(
                (line for line in cloud("status").stdout.splitlines() if words in line), ""
            ),
            what="the VM tells that it has none",
        )
        assert "Google stops it on" in told
        watch = cloud.laptop.json("status", cwd=cloud.folder)["watchdog"]
        assert watch["missing"] == "its Python 3.8 is older than 3.10"
