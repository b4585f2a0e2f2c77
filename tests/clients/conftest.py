"""An emulator for each file, what `vmctl emulator env` tells of it, and a table at the end."""

from __future__ import annotations

import json
import re
from collections import Counter
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
        logs = sorted((cloud.laptop.emulator_home).glob("emulator.log*"))
        statuses = re.findall(r" -> (\d{3})$", "".join(log.read_text() for log in logs), re.M)
    request.config.stash[ANSWERED][label] = Counter(statuses)
    assert "500" not in statuses


# The statuses that each client was answered, by the emulator's log
ANSWERED: pytest.StashKey[dict[str, Counter[str]]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ANSWERED] = {}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """For each client: its calls, of which each is a test, and what the emulator answered."""
    judged: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            label = Path(report.nodeid.partition("::")[0]).stem.removeprefix("test_")
            judged.setdefault(label, Counter())["right" if outcome == "passed" else "wrong"] += 1
    for label, found in sorted(judged.items()):
        answered = config.stash[ANSWERED].get(label, Counter())
        terminalreporter.write_line(
            f"{label:22} {found.total():3} calls: {found['right']:3} right, {found['wrong']} wrong;"
            f" {answered.total():4} requests, {answered['500']} of them a crash"
        )
