"""kill -9 of the client at a chosen API call, and what the embedded Compute Engine holds then."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.e2e.conftest import BASE, Laptop, project, public_folder
from tests.waiting import GAP_S, eventually

MOMENTS = ("before", "after")
COLLECTIONS = ("instances", "disks", "snapshots", "addresses")
# A program that is killed can write down no coverage, and measured it would take twice as long.
UNMEASURED = {"COVERAGE_PROCESS_CONFIG": ""}


class Rehearsal:
    """A laptop with an emulator of its own, whose API calls can be held."""

    def __init__(self, base: Path) -> None:
        self.laptop = Laptop(base / "laptop", base / "emulator")
        self.folder = project(base / "crash", BASE)
        self.laptop("emulator", "start", cwd=base)
        record = json.loads((base / "emulator" / "emulator.json").read_text())
        self._root = f"http://127.0.0.1:{record['port']}"

    def __call__(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.laptop(*words, cwd=self.folder, code=code)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._root}{path}", data=data, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        return self.ask(method, f"/compute/v1/projects/vmctl-local/{path}", body)

    def fault(self, **fields: Any) -> None:
        self.ask("POST", "/emulator/v1/faults", fields)

    def no_faults(self) -> None:
        self.ask("DELETE", "/emulator/v1/faults")

    def all(self, collection: str) -> list[dict[str, Any]]:
        """Every resource of a kind, in all zones and regions."""
        if collection in ("snapshots", "firewalls"):
            listed: list[dict[str, Any]] = self.api("GET", f"global/{collection}").get("items", [])
            return listed
        scopes = self.api("GET", f"aggregated/{collection}")["items"].values()
        return [item for scope in scopes for item in scope.get(collection, [])]

    def clear(self) -> None:
        """End faults and holds, and remove every VM, disk, snapshot and address."""
        self.ask("DELETE", "/emulator/v1/hold")
        self.no_faults()
        for collection in COLLECTIONS:
            eventually(lambda c=collection: self._none_left(c), f"no {collection} left")

    def _none_left(self, collection: str) -> bool:
        found = self.all(collection)
        for item in found:
            path = item["selfLink"].partition("projects/vmctl-local/")[2]
            with contextlib.suppress(urllib.error.HTTPError):  # one between two states, or going
                self.api("DELETE", path)
        return not found

    def held(self, client: subprocess.Popen[bytes]) -> str | None:
        """Wait until a call of this client is held; its method, None if it ended before."""
        held: dict[str, Any] | None = None
        while held is None and client.poll() is None:
            held = self.ask("GET", "/emulator/v1/hold")["held"]
            time.sleep(GAP_S)
        return None if held is None else str(held["method"])

    def killed_at(self, call: int, when: str, *words: str, **counted: Any) -> str | None:
        """Kill -9 a command at its n-th API call; the call's method, None if it never came to it.

        With `changes=True` only calls that change something are counted, with `method=ID` only
        those of one method, with `repeats=False` a question asked again and again once.
        """
        self.ask("POST", "/emulator/v1/hold", {"call": call, "when": when, **counted})
        client = self.laptop.start(*words, cwd=self.folder, environ=UNMEASURED)
        method = self.held(client)
        if method is not None:
            os.killpg(client.pid, signal.SIGKILL)
        told = client.communicate()[1].decode()
        self.ask("DELETE", "/emulator/v1/hold")
        if method is None:
            assert client.returncode == 0, told
        return method

    def at_every_call(
        self, when: str, *words: str, before_each: Callable[[], object], **counted: Any
    ) -> Iterator[str]:
        """The methods at which the command was killed, one after the other, until it came through.

        `before_each` sets the scene; what is yielded to looks at what became of it.
        """
        for call in itertools.count(1):
            before_each()
            method = self.killed_at(call, when, *words, **counted)
            if method is None:
                return
            yield f"{when} call {call}, {method}"


@contextlib.contextmanager
def rehearsal(name: str) -> Iterator[Rehearsal]:
    """One in a folder of its own, gone with all its machines at the end."""
    base = public_folder(name)
    made = Rehearsal(base)
    try:
        yield made
    finally:
        made.laptop("emulator", "stop", cwd=base, code=None)
        shutil.rmtree(base, ignore_errors=True)
