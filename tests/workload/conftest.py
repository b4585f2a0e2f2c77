"""Small photos of our own making, and the workload's folder on the path."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from download_site import Site

from tests.workload import programs

ROOT = Path(__file__).resolve().parents[2]
WORKLOAD = ROOT / "workload"
sys.path.insert(0, str(WORKLOAD))
# Tiny pictures are fastest on one thread; here and in the trainings that the tests start.
os.environ["OMP_NUM_THREADS"] = "1"
programs.measure_briefly()


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded photos go here, and not where the trainings of this computer's user keep theirs."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_that_forks() -> Iterator[None]:
    yield
    programs.close()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of twelve pictures, in a folder whose name has a space and an umlaut."""
    # here: the tests of the download need no pillow
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos") / "schöne Bilder"
    for label, name in enumerate(("field", "ocean")):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            colour = (20 * number, 90 + 100 * label, 240 - 15 * number)
            Image.new("RGB", (30 + number, 24), colour).save(folder / name / f"{number}.jpg")
    return folder


@pytest.fixture
def site() -> Iterator[Site]:
    """A server of photos; what it does wrong is set in its attributes."""
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        if server.hold:
            server.hold.set()
        server.shutdown()
        thread.join()
