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

# The files that take longest, the longest first: started last, one of them would run alone at the
# end while the other processors rest. `scripts/test` prints the slowest tests of a run.
LONGEST = (
    "e2e/test_main_job",
    "e2e/test_connection",
    "e2e/test_crash_at_every_call",
    "e2e/test_gcloud_lines",
    "contract/test_gcloud",
    "e2e/test_cuts",
    "e2e/test_move",
    "e2e/test_watchdog",
    "e2e/test_zone_search",
    "machines/test_images",
    "e2e/test_jobs",
    "e2e/test_ordinary_user",
    "e2e/test_selftest",
    "e2e/test_ssh_restriction",
    "contract/test_restart",
    "e2e/test_login",
    "e2e/test_readiness",
    "e2e/test_packaging",
    "e2e/test_quota_first",
    "e2e/test_long_run",
    "contract/test_push",
    "contract/test_runs",
    "contract/test_instances",
    "e2e/test_many_machines",
    "contract/test_faults",
    "e2e/test_tunnels",
    "e2e/test_crashes",
    "machines/test_power",
    "contract/test_fetch",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, the longest files first; each is given to one of them as a whole."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = {name: place for place, name in enumerate(LONGEST)}
        items.sort(
            key=lambda item: order.get(f"{item.path.parent.name}/{item.path.stem}", len(order))
        )


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
    """While a test runs its name is in a file, for the program that may have to end it."""
    folder = os.environ.get("VMCTL_TESTS_FOLDER")
    if not folder:
        return (yield)
    file = Path(folder) / "running" / str(os.getpid())
    file.write_text(item.nodeid, encoding="utf-8")
    try:
        return (yield)
    finally:
        file.unlink(missing_ok=True)
