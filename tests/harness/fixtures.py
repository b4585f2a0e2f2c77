"""Fixtures for all tests that run `vmctl`: a laptop, machines, links and clouds."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.crash_points import HeldCloud
from tests.harness.credentials import logged_out, service_account, serving_tokens
from tests.harness.folders import public_folder, remove
from tests.harness.fork_server import close_all
from tests.harness.laptop import BASE, Laptop, project, started
from tests.harness.link import Link, refusal


@pytest.fixture(scope="session", autouse=True)
def _no_fork_server_is_left() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture(scope="session")
def laptop() -> Iterator[Laptop]:
    """One laptop and one emulator for the whole session."""
    base = public_folder("e2e")
    made = Laptop(base / "laptop", base / "emulator")
    yield made
    try:
        made("emulator", "stop", cwd=base, code=None)
    finally:
        remove(base)


@pytest.fixture(autouse=True)
def _no_program_is_left_to_the_next_test() -> Iterator[None]:
    """What a test that failed had started ends with it, pipes and all."""
    before = len(started)
    yield
    for process in started[before:]:
        with process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    del started[before:]


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A project folder of the user's own, named after the test."""
    name: str = request.node.originalname
    made = tmp_path / name.removeprefix("test_")[:30]
    made.mkdir()
    return made


@pytest.fixture
def anonymous(laptop: Laptop, tmp_path: Path) -> Laptop:
    """The same laptop, aimed at the real service, without any credentials."""
    return Laptop(laptop.home, laptop.emulator_home, logged_out(tmp_path))


@pytest.fixture(scope="session")
def token_server() -> Iterator[str]:
    """A token endpoint that gives a token to every caller, or refuses under /revoked."""
    with serving_tokens() as url:
        yield url


@pytest.fixture(scope="session")
def account() -> dict[str, str]:
    """A service account's key file, less its project and where its tokens come from."""
    return service_account()


@pytest.fixture(scope="session")
def shared_machine(laptop: Laptop) -> Iterator[Path]:
    """A folder whose machine (no torch) is up for the whole session; tests leave it up."""
    made = public_folder("project")
    project(made / "shared", BASE)
    laptop("up", "--gpu", "t4", cwd=made / "shared")
    yield made / "shared"
    laptop("down", "--delete", "--yes", cwd=made / "shared", code=None)
    shutil.rmtree(made, ignore_errors=True)


@dataclass
class Linked:
    """A laptop and a machine (no torch, up, at `folder`) with a real network between them."""

    laptop: Laptop
    link: Link
    folder: Path


@pytest.fixture(scope="session")
def linked_machine() -> Iterator[Linked]:
    """One link, one emulator behind it and one machine for the whole session."""
    if (reason := refusal()) is not None:
        pytest.skip(reason)
    base = public_folder("linked")
    with Link.opened(rtt_ms=30, rate_mbit=100) as link:
        laptop = Laptop(base / "laptop", base / "emulator", prefix=link.laptop)
        link.serve_emulator(laptop.emulator_home, laptop.environ)
        folder = project(base / "linked", BASE)
        laptop("up", "--gpu", "t4", cwd=folder)
        yield Linked(laptop, link, folder)
        link.reset()
        laptop("down", "--delete", "--yes", cwd=folder, code=None)
    remove(base)


@pytest.fixture
def linked(linked_machine: Linked) -> Iterator[Linked]:
    """The linked machine over a whole link: 30 ms there and back, 100 Mbit/s."""
    linked_machine.link.reset()
    yield linked_machine
    linked_machine.link.reset()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A real headless Chromium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-quic", "--disable-background-networking", "--disable-component-update",
        "--window-size=1500,1000", f"--user-data-dir={tmp_path / 'chromium'}",
    ):  # fmt: skip
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


# -- a cloud -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_cloud(request: pytest.FixtureRequest) -> Iterator[HeldCloud]:
    """One for all tests of a file, whose BASE, if it has one, is the project's vmctl.toml."""
    toml = getattr(request.module, "BASE", BASE)
    with HeldCloud.opened(_named_after(request), toml=toml) as made:
        yield made


@pytest.fixture
def cloud(one_cloud: HeldCloud) -> Iterator[HeldCloud]:
    """No faults, no machines and nothing else is in it, before a test and after it."""
    one_cloud.clear()
    yield one_cloud
    one_cloud.clear()


def _named_after(request: pytest.FixtureRequest) -> str:
    name: str = request.module.__name__
    return name.rpartition(".")[2].removeprefix("test_")
