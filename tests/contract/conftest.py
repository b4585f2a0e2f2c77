"""The emulator as a process of its own, asked by Google's client library."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from googleapiclient.errors import HttpError

from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually
from tests.harness.folders import public_folder

ZONE = "europe-west1-b"
GUEST_ATTRIBUTES = {"key": "enable-guest-attributes", "value": "TRUE"}


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """One emulator with a real clock, shared by the tests; each uses a project of its own."""
    made = Emulator(public_folder("contract")).start()
    yield made
    made.remove()


@pytest.fixture
def own_emulator() -> Iterator[Callable[..., Emulator]]:
    """Make emulators that a test may stop, kill and restart."""
    made: list[Emulator] = []

    def make(clock: str = "real", *options: str) -> Emulator:
        made.append(Emulator(public_folder("contract"), clock, *options))
        return made[-1].start()

    yield make
    for emulator in made:
        emulator.remove()


@pytest.fixture
def cloud(emulator: Emulator) -> Iterator[Cloud]:
    """A project on the shared emulator; its instances are removed afterwards."""
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

    def insert(
        self, body: dict[str, Any], zone: str = ZONE, retries: int = 2, **more: Any
    ) -> dict[str, Any]:
        """Insert an instance and return the operation as the call answers it."""
        request = self.api.instances().insert(project=self.project, zone=zone, body=body, **more)
        return dict(
            request.execute(num_retries=retries)
        )  # a kept connection may have ended meanwhile

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

    def granted(self, body: dict[str, Any] | None = None, zone: str = ZONE) -> dict[str, Any]:
        """Insert an instance that gets its place and never boots; return it STAGING.

        It costs next to nothing, and can be deleted like any other.
        """
        body = body or self.body()
        slow = {"kind": "slow-boot", "seconds": 86_400, "instance": body["name"], "calls": 1}
        self.emulator.admin("POST", "faults", slow)
        self.insert(body, zone)
        eventually(lambda: not self._slow_boots_to_come(), "it has its place")
        assert self.status(body["name"], zone) == "STAGING"
        return self.get(body["name"], zone)

    def _slow_boots_to_come(self) -> bool:
        faults = self.emulator.admin("GET", "faults")["faults"]
        return any(fault["kind"] == "slow-boot" for fault in faults)

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


def host_keys(cloud: Cloud, name: str = "vm1") -> list[dict[str, str]]:
    """Those that a machine has published, which it does soon after its sshd answers."""
    where = {"project": cloud.project, "zone": ZONE, "instance": name}
    request = cloud.api.instances().getGuestAttributes(**where, queryPath="hostkeys/")

    def published() -> list[dict[str, str]]:
        try:
            return list(request.execute()["queryValue"]["items"])
        except HttpError as error:
            if error.status_code == 404:
                return []
            raise

    return eventually(published, f"{name} has published its host keys")


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
