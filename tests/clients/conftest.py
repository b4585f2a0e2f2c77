"""An emulator for each file, and what `vmctl emulator env` tells of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually

REGION = "europe-west1"
ZONE = "europe-west1-b"
IMAGE = "projects/debian-cloud/global/images/family/debian-12"


@dataclass
class Site:
    """Where the emulator is, for a client: address, trust, secret, project."""

    cloud: LocalCloud
    environ: dict[str, str]

    @property
    def url(self) -> str:
        """Ends without a slash; `/compute/v1/` is below it."""
        return self.environ["VMCTL_EMULATOR_URL"].rstrip("/")

    @property
    def host(self) -> str:
        return self.url.removeprefix("https://").partition(":")[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def certificate(self) -> str:
        return self.environ["VMCTL_EMULATOR_CERTIFICATE"]

    @property
    def token(self) -> str:
        return Path(self.environ["VMCTL_EMULATOR_TOKEN_FILE"]).read_text().strip()

    @property
    def project(self) -> str:
        return self.environ["CLOUDSDK_CORE_PROJECT"]

    def boots_never(self, name: str) -> None:
        """A machine of this name, once: it gets its place, costs nothing and can be deleted."""
        self.cloud.fault(kind="slow-boot", seconds=86_400, instance=name, calls=1)

    def status_of(self, name: str) -> str:
        return str(self.cloud.api("GET", f"zones/{ZONE}/instances/{name}")["status"])

    def eventually_is(self, name: str, status: str) -> None:
        eventually(lambda: self.status_of(name) == status, f"{name} is {status}")


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    label = request.module.__name__.rpartition(".")[2].removeprefix("test_")
    with LocalCloud.opened(label) as cloud:
        told: dict[str, Any] = json.loads(cloud("emulator", "env", "--json").stdout)
        yield Site(cloud, told["variables"])
