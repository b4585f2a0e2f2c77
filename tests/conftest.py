"""What every test needs, however the tests were started."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.harness.fixtures", "tests.harness.wire"]

# A shell starts what it puts in the background with Ctrl-C ignored, and every program that the
# tests start would inherit that: those that are ended with SIGINT would then go on for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy computer is slow to make examples and to try them: that is no fault of what is tested.
with contextlib.suppress(ImportError):  # the workload's tests do without hypothesis
    from hypothesis import HealthCheck, settings

    settings.register_profile("vmctl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("vmctl")

# The files that take longest, minutes each, the longest first: begun last, one of them would run
# alone at the end while the other processors rest.
LONGEST = (
    "test_connection",
    "test_crash_at_every_call",
    "test_watchdog",
    "test_zone_search",
    "test_move",
    "test_cuts",
    "test_gcloud",
    "test_images",
    "test_restart",
    "test_selftest",
    "test_login",
    "test_long_run",
    "test_push",
    "test_runs",
    "test_instances",
    "test_many_machines",
    "test_faults",
    "test_tunnels",
    "test_crashes",
    "test_jobs",
    "test_power",
    "test_fetch",
    "test_readiness",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, the longest files first; each is given to one of them as a whole."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_kept_in_the_users_home() -> Iterator[None]:
    """What vmctl remembers, in the tests' own process too, is in a folder of the tests'."""
    with tempfile.TemporaryDirectory(prefix="vmctl-home-") as home:
        before = os.environ.get("VMCTL_HOME")
        os.environ["VMCTL_HOME"] = home
        yield
        if before is None:
            del os.environ["VMCTL_HOME"]
        else:
            os.environ["VMCTL_HOME"] = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """While a test runs its name is in a file, for whoever has to end it."""
    folder = os.environ.get("VMCTL_TESTS_FOLDER")
    if not folder:
        return (yield)
    file = Path(folder) / "running" / str(os.getpid())
    file.write_text(item.nodeid, encoding="utf-8")
    try:
        return (yield)
    finally:
        file.unlink(missing_ok=True)
