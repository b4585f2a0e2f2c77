"""A laptop with an embedded Compute Engine of its own, and a folder with a project."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tests.harness.emulator import Emulator
from tests.harness.endpoint import Endpoint
from tests.harness.eventually import eventually
from tests.harness.folders import public_folder, remove
from tests.harness.fork_server import Forked
from tests.harness.laptop import BASE, Laptop, project

COLLECTIONS = ("instances", "disks", "snapshots", "addresses")


class LocalCloud:
    """The emulator is started, the project has no machine yet; `cloud("up")` runs vmctl there."""

    def __init__(self, base: Path, name: str = "vm", toml: str = BASE) -> None:
        self.base = base
        self.laptop = Laptop(base / "laptop", base / "emulator")
        self.folder = project(base / name, toml)
        self.endpoint = Endpoint(self.laptop.emulator_home)
        self.ask = self.endpoint.ask
        self.api = self.endpoint.api

    @classmethod
    @contextlib.contextmanager
    def opened(cls, label: str, **options: Any) -> Iterator[Self]:
        """One in a folder of its own, removed with all its machines at the end."""
        base = public_folder(label)
        made = cls(base, **options)
        try:
            made.start()
            yield made
        finally:
            made.stop()
            remove(base)

    def start(self) -> None:
        """As `vmctl emulator start` does, which is a test's business elsewhere."""
        process = Emulator(self.laptop.emulator_home).start(self.laptop.environ).process
        if isinstance(process, Forked):
            process.let_go()

    def stop(self) -> None:
        self.laptop("emulator", "stop", cwd=self.base, code=None)

    def __call__(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.laptop(*words, cwd=self.folder, code=code)

    def fault(self, **fields: Any) -> None:
        self.ask("POST", "/emulator/v1/faults", fields)

    def no_faults(self) -> None:
        self.ask("DELETE", "/emulator/v1/faults")

    def machines(self) -> list[dict[str, Any]]:
        """Every VM as the emulator itself sees it."""
        found: list[dict[str, Any]] = self.ask("GET", "/emulator/v1/status")["instances"]
        return found

    def all(self, collection: str) -> list[dict[str, Any]]:
        """Every resource of a kind, in all zones and regions."""
        if collection in ("snapshots", "firewalls"):
            listed: list[dict[str, Any]] = self.api("GET", f"global/{collection}").get("items", [])
            return listed
        scopes = self.api("GET", f"aggregated/{collection}")["items"].values()
        return [item for scope in scopes for item in scope.get(collection, [])]

    def clear(self) -> None:
        """End faults and holds, and remove every VM, disk, snapshot, address and rule of vmctl's.

        Through the API: `vmctl down --delete` takes ten times the processor time.
        """
        self.ask("DELETE", "/emulator/v1/hold")
        self.no_faults()
        # asked again and again until they are off: a list of all zones costs ten times as much
        eventually(self._no_machine_left, "no VM left")
        for collection in (*COLLECTIONS[1:], "firewalls"):
            eventually(functools.partial(self._none_left, collection), f"no {collection} left")

    def _no_machine_left(self) -> bool:
        found = self.ask("GET", "/emulator/v1/status")["instances"]
        for vm in found:
            with contextlib.suppress(urllib.error.HTTPError):  # between two states, or going
                self.api("DELETE", f"zones/{vm['zone']}/instances/{vm['name']}")
        return not found

    def _none_left(self, collection: str) -> bool:
        found = self.all(collection)
        if collection == "firewalls":
            found = [rule for rule in found if rule["name"].startswith("vmctl-")]
        for item in found:
            path = item["selfLink"].partition("projects/vmctl-local/")[2]
            with contextlib.suppress(urllib.error.HTTPError):  # one between two states, or going
                self.api("DELETE", path)
        return not found
