"""The emulator as a process of its own, asked by Google's client library."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import eventually

ZONE = "europe-west1-b"
START_LIMIT_S = 20.0
STOP_LIMIT_S = 30.0


@dataclass
class Emulator:
    """One emulator: its home, its process, and the ways to talk to it."""

    home: Path
    clock: str = "real"
    process: subprocess.Popen[bytes] | None = None
    _service: Any = None

    @property
    def about(self) -> dict[str, Any]:
        """What emulator.json says; {} when it is not there."""
        try:
            return dict(json.loads((self.home / "emulator.json").read_text()))
        except FileNotFoundError:
            return {}

    @property
    def url(self) -> str:
        return str(self.about["url"])

    def command(self, *more: str) -> list[str]:
        words = [sys.executable, "-m", "vmctl.emulator", "serve", "--home", str(self.home)]
        return [*words, "--clock", self.clock, *more]

    def start(self) -> Emulator:
        """Start it and wait until it serves."""
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        process = self.process

        def serves() -> bool:
            assert process.poll() is None, process.communicate()
            return self.about.get("pid") == process.pid

        eventually(serves, within_s=START_LIMIT_S)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process with a signal and return its exit status."""
        self._close_client()
        assert self.process is not None
        self.process.send_signal(number)
        with self.process as process:
            return process.wait(STOP_LIMIT_S)

    def remove(self) -> None:
        """Stop it if it runs, see that nothing is left of it, and remove its home."""
        self._close_client()
        if self.process is not None:
            with self.process:  # one that has ended by itself leaves its pipe
                if self.process.poll() is None:
                    self.stop()
        left = processes_of(self.home)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)
        assert not left, f"left running: {left}"

    def client(self) -> Any:
        """Return Google's own Compute Engine client, pointed at this emulator."""
        if self._service is not None:
            return self._service
        from google.auth.credentials import AnonymousCredentials
        from googleapiclient.discovery import build

        self._service = build(
            "compute",
            "v1",
            credentials=AnonymousCredentials(),
            static_discovery=True,
            cache_discovery=False,
            client_options={"api_endpoint": f"{self.url}/compute/v1/"},
        )
        return self._service

    def send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Send one raw request and return status and JSON body."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(
            self.url + path, data=data, method=method, headers=headers or {}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def admin(self, method: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Use the admin route; the call must succeed."""
        status, answer = self.send(method, f"/emulator/v1/{name}", body)
        assert status == 200, answer
        return answer

    @contextlib.contextmanager
    def fault(self, **fault: Any) -> Iterator[dict[str, Any]]:
        """Put a fault in force for the length of a block."""
        added = self.admin("POST", "faults", fault)
        try:
            yield added
        finally:
            self.admin("DELETE", "faults")

    def _close_client(self) -> None:
        if self._service is not None:
            self._service.close()
            self._service = None


def processes_of(folder: Path) -> list[int]:
    """The processes on this computer whose command line names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def public_folder() -> Path:
    """A new folder that the machines' unprivileged uid can enter."""
    folder = Path(tempfile.mkdtemp(prefix="vmctl-contract-", dir="/var/tmp"))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """One emulator with a real clock, shared by the tests; each uses a project of its own."""
    made = Emulator(public_folder()).start()
    yield made
    made.remove()


@pytest.fixture
def own_emulator() -> Iterator[Callable[..., Emulator]]:
    """Make emulators that a test may stop, kill and restart."""
    made: list[Emulator] = []

    def make(clock: str = "real") -> Emulator:
        made.append(Emulator(public_folder(), clock))
        return made[-1].start()

    yield make
    for emulator in made:
        emulator.remove()


@pytest.fixture
def cloud(emulator: Emulator) -> Iterator[Cloud]:
    """A project on the shared emulator; its instances are gone afterwards."""
    made = Cloud(emulator, f"p-{uuid.uuid4().hex[:10]}")
    yield made
    made.clear()


@dataclass
class Cloud:
    """A project on an emulator, with the few calls that most tests need."""

    emulator: Emulator
    project: str

    @property
    def api(self) -> Any:
        return self.emulator.client()

    def body(self, name: str = "vm1", zone: str = ZONE, **more: Any) -> dict[str, Any]:
        """A small CPU machine from an image that needs no build."""
        image = "projects/debian-cloud/global/images/family/debian-12"
        return {
            "name": name,
            "machineType": f"zones/{zone}/machineTypes/e2-small",
            "disks": [
                {"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": image}}
            ],
            "networkInterfaces": [
                {"network": "global/networks/default", "accessConfigs": [{"name": "External NAT"}]}
            ],
            **more,
        }

    def gpu_body(self, name: str = "vm1", gpu: str = "nvidia-tesla-t4", **more: Any) -> Any:
        """An N1 machine with a GPU."""
        zone = more.pop("zone", ZONE)
        count = more.pop("count", 1)
        return self.body(
            name,
            zone,
            **{
                "machineType": f"zones/{zone}/machineTypes/n1-standard-4",
                "scheduling": {"onHostMaintenance": "TERMINATE", "automaticRestart": False},
                "guestAccelerators": [
                    {
                        "acceleratorType": f"zones/{zone}/acceleratorTypes/{gpu}",
                        "acceleratorCount": count,
                    }
                ],
                **more,
            },
        )

    def insert(self, body: dict[str, Any], zone: str = ZONE, **more: Any) -> dict[str, Any]:
        """Insert an instance and return the operation as the call answers it."""
        request = self.api.instances().insert(project=self.project, zone=zone, body=body, **more)
        return dict(request.execute(num_retries=2))  # a kept connection may have ended meanwhile

    def wait(self, operation: dict[str, Any]) -> dict[str, Any]:
        """Wait for a zone or global operation and return it as it ended."""
        where = {"project": self.project, "operation": operation["name"]}
        calls = self.api.globalOperations()
        if "zone" in operation:
            where["zone"] = operation["zone"].rpartition("/")[2]
            calls = self.api.zoneOperations()
        ended = dict(calls.wait(**where).execute())
        assert ended["status"] == "DONE", ended
        return ended

    def create(self, body: dict[str, Any] | None = None, zone: str = ZONE) -> dict[str, Any]:
        """Insert an instance, wait for it and return it RUNNING."""
        body = body or self.body()
        ended = self.wait(self.insert(body, zone))
        assert "error" not in ended, ended
        return self.get(body["name"], zone)

    def get(self, name: str = "vm1", zone: str = ZONE) -> dict[str, Any]:
        return dict(
            self.api.instances().get(project=self.project, zone=zone, instance=name).execute()
        )

    def do(self, verb: str, name: str = "vm1", zone: str = ZONE, **more: Any) -> dict[str, Any]:
        """Call a method of an instance by its name and return the operation as it ended."""
        method = getattr(self.api.instances(), verb)
        request = method(project=self.project, zone=zone, instance=name, **more)
        return self.wait(request.execute())

    def status(self, name: str = "vm1", zone: str = ZONE) -> str:
        return str(self.get(name, zone)["status"])

    def clear(self) -> None:
        """Delete every instance of the project."""
        scopes = self.api.instances().aggregatedList(project=self.project).execute()["items"]
        for scope, found in scopes.items():
            for instance in found.get("instances", ()):
                if instance["status"] != "STOPPING":
                    self.do("delete", instance["name"], scope.removeprefix("zones/"))


def nat_ip(instance: dict[str, Any]) -> str | None:
    """The external address of an instance; None when it has none."""
    address: str | None = instance["networkInterfaces"][0]["accessConfigs"][0].get("natIP")
    return address


@dataclass
class Key:
    """An ssh key of the test's own, and how to log in with it as OpenSSH does."""

    file: Path

    @property
    def item(self) -> dict[str, str]:
        """The metadata item that lets `tester` log in."""
        public = self.file.with_suffix(".pub").read_text().strip()
        return {"key": "ssh-keys", "value": f"tester:{public}"}

    def run(
        self, instance: dict[str, Any], host_keys: list[dict[str, str]], command: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine whose host keys are known from its guest attributes."""
        alias = f"compute.{instance['id']}"
        known = self.file.with_name("known_hosts")
        known.write_text("".join(f"{alias} {key['key']} {key['value']}\n" for key in host_keys))
        items = {i["key"]: i["value"] for i in instance["metadata"].get("items", ())}
        options = {
            "UserKnownHostsFile": known,
            "HostKeyAlias": alias,
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "Port": items.get("vmctl-ssh-port", "22"),
        }
        words = ["ssh", "-F", "none", "-i", str(self.file)]
        words += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return subprocess.run(
            [*words, f"tester@{nat_ip(instance)}", command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    """A fresh ed25519 key."""
    file = tmp_path_factory.mktemp("ssh") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return Key(file)
