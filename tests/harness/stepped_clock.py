"""A laptop and an embedded Compute Engine whose time, its machines' too, is moved by the test."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
import time
import urllib.error
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.harness.cloud import LocalCloud
from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually

IMAGE = '[vm]\nimage = "debian-cloud/debian-12"\n'
STEP_S = 240.0  # the watchdog does not trust a longer time in which no sample was taken


class SteppedCloud(LocalCloud):
    """One emulator with a stepped clock, and a folder with a project."""

    def __init__(self, base: Path, name: str = "month", toml: str = "") -> None:
        super().__init__(base, name, IMAGE + toml)
        self._emulator = Emulator(self.laptop.emulator_home, "stepped")

    def start(self) -> None:
        self._emulator.start(self.laptop.environ)

    def stop(self) -> None:
        process = self._emulator.process
        if process is not None and process.poll() is None:
            self._emulator.stop()

    # -- machines ----------------------------------------------------------------------------

    def paths(self) -> dict[str, str]:
        """Where each machine is, by its name; a list of all zones costs ten times as much."""
        reply = self.ask("GET", "/emulator/v1/status")["instances"]
        return {vm["name"]: f"zones/{vm['zone']}/instances/{vm['name']}" for vm in reply}

    def machines(self) -> list[dict[str, Any]]:
        return [self.api("GET", path) for path in self.paths().values()]

    def machine(self, name: str = "tester-month") -> dict[str, Any]:
        found: dict[str, Any] = self.api("GET", self.paths()[name])
        return found

    def on(self, name: str, verb: str, *, method: str = "POST") -> None:
        """Do something to a machine as the console would, and wait for its end."""
        path = self.paths()[name]
        asked = self.api(method, f"{path}/{verb}" if verb else path, {} if verb else None)
        link = asked["selfLink"].partition("projects/vmctl-local/")[2]
        eventually(lambda: self.api("GET", link)["status"] == "DONE", what=f"{verb} of {name}")

    def admin(self, verb: str, name: str) -> None:
        zone = self.machine(name)["zone"].rpartition("/")[2]
        self.ask("POST", f"/emulator/v1/{verb}", {"zone": zone, "instance": name})
        self.off(name)

    def off(self, name: str = "tester-month") -> None:
        eventually(lambda: self.machine(name)["status"] == "TERMINATED", what=f"{name} is off")

    # -- time --------------------------------------------------------------------------------

    def now(self) -> datetime:
        return datetime.fromisoformat(self.ask("GET", "/emulator/v1/status")["now"])

    def jump(self, seconds: float) -> None:
        """Move the time at once, with no sample taken meanwhile."""
        self.ask("POST", "/emulator/v1/clock", {"advance_s": seconds})

    def whole_second(self) -> datetime:
        """Go on to a moment that has no fraction of a second."""
        self.jump(1 - self.now().microsecond / 1e6)
        now = self.now()
        if now.microsecond:  # stamps have milliseconds
            self.jump(1 - now.microsecond / 1e6)
        return self.now()

    def live(self, hours: float) -> None:
        """Let time pass in which every watchdog looks every few minutes."""
        left = hours * 3600
        while left > 0:
            self.settled()
            step = min(STEP_S, left)
            left -= step
            self.jump(step)
            self.no_overdue()
        self.settled()

    def settled(self) -> None:
        """Until every machine that is on has been looked at by its watchdog at this time."""
        now = self.now()
        eventually(
            lambda: all(
                self._seen(vm, now) for vm in self.ask("GET", "/emulator/v1/status")["instances"]
            ),
            what="every watchdog has looked",
        )

    def _seen(self, vm: dict[str, Any], now: datetime) -> bool:
        if vm["status"] != "RUNNING":
            return bool(vm["status"] == "TERMINATED")
        report = self.report(vm["name"])
        if report is None or report["stopped"]:
            return False
        return datetime.fromtimestamp(report["at"], UTC).timestamp() >= now.timestamp() - 2

    def report(self, name: str = "tester-month") -> dict[str, Any] | None:
        """What a machine's watchdog reported last."""
        path = self.paths()[name]
        try:
            reply = self.api("GET", f"{path}/getGuestAttributes?queryPath=vmctl/")
        except urllib.error.HTTPError:
            return None
        found: dict[str, Any] = json.loads(reply["queryValue"]["items"][0]["value"])
        return found

    def no_overdue(self) -> None:
        """No machine is on after the moment at which Google was to end it."""
        now = self.now()
        for vm in self.machines():
            limit = vm["resourceStatus"]["scheduling"].get("terminationTimestamp")
            if vm["status"] == "RUNNING":
                assert limit is not None
                assert datetime.fromisoformat(limit) > now, vm["name"]


class Terminal:
    """A user who is logged in: `vmctl ssh` on a terminal."""

    def __init__(self, cloud: SteppedCloud) -> None:
        self._ours, theirs = pty.openpty()
        self.process = cloud.laptop.start(
            "ssh", cwd=cloud.folder, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def reads(self, words: str, within_s: float = 30) -> str:
        """Wait until the terminal shows it; everything shown so far."""
        deadline = time.monotonic() + within_s
        while words not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"{words!r} is not in {self.shown!r}"
            if select.select([self._ours], [], [], left)[0]:
                with contextlib.suppress(OSError):
                    self.shown += os.read(self._ours, 65536).decode("utf-8", "replace")
        return self.shown

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.type("exit\n")
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
