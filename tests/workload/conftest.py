"""Small photos of our own making, and the workload's folder on the path."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKLOAD = ROOT / "workload"
sys.path.insert(0, str(WORKLOAD))
# Tiny pictures are fastest on one thread; here and in the trainings that the tests start.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded photos go here, and not where the trainings of this computer's user keep theirs."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return folder


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
