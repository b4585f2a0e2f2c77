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
    with LocalCloud.opened("old-python") as sky:
        project(sky.folder, BASE)
        sky("up")
        assert "has no watchdog" not in sky("status").stdout
        (sky.folder / "old.py").write_text(OLD)
        (sky.folder / "python3").write_text(
            '#!/bin/sh\nexec /usr/bin/python3.11 -I /usr/local/lib/old.py "$@"\n'
        )
        sky("push")
        sky("exec", "sudo", "install", "-D", "old.py", "/usr/local/lib/old.py")
        sky("exec", "sudo", "install", "python3", "/usr/local/bin/python3")
        sky("down")
        sky.ask("POST", f"{VM}/start")
        eventually(lambda: sky.ask("GET", VM)["status"] == "RUNNING")
        words = "It has no watchdog (its Python 3.8 is older than 3.10)"
        told = eventually(
            lambda: next((line for line in sky("status").stdout.splitlines() if words in line), ""),
            what="the VM tells that it has none",
        )
        assert "Google stops it on" in told
        watch = sky.laptop.json("status", cwd=sky.folder)["watch"]
        assert watch["missing"] == "its Python 3.8 is older than 3.10"
