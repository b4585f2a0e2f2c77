import json
import os
import shutil
from contextlib import ExitStack

import cache
import pytest
import torch
from cache import KEPT, open_cache
from colours import to_batch
from data_utils import ImageFolderGrayColor, get_colorized_dataset_loader
from PIL import Image

from tests.workload.programs import Program, run


def files_in(folder):
    return [path for path, _ in ImageFolderGrayColor(folder, check=False).samples]


@pytest.fixture
def copies(photos, tmp_path):
    """Photos that a test may change."""
    shutil.copytree(photos, tmp_path / "photos")
    return tmp_path / "photos"


def test_the_net_sees_to_the_last_bit_what_the_courses_loader_makes(copies, tmp_path):
    torch.manual_seed(0)
    for number in range(4):  # something with detail, to be made smaller and larger
        noise = torch.randint(0, 256, (33 + number, 50, 3), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(copies / "field" / f"noise{number}.png")
    pixels, unreadable = open_cache(files_in(copies), 40, tmp_path / "cache")
    gray, colour = next(iter(get_colorized_dataset_loader(copies, 40, batch_size=99)))
    ours_gray, ours = to_batch(pixels)
    assert unreadable == {}
    assert torch.equal(ours, colour)
    assert torch.equal(ours_gray, gray)


def test_photos_are_decoded_once_for_each_size_and_content(copies, tmp_path):
    decoded = []

    def progress(things, total):
        decoded.append(total)
        return things

    def opened(size):
        return open_cache(files_in(copies), size, tmp_path / "cache", progress=progress)[0]

    first, again = opened(8), opened(8)
    assert torch.equal(first, again)
    assert decoded == [24]
    assert opened(16).shape == (24, 16, 16, 3)
    assert decoded == [24, 24]
    Image.new("RGB", (9, 9), "red").save(copies / "field" / "0.jpg")
    changed = opened(8)
    assert decoded == [24, 24, 24]
    assert not torch.equal(changed[0], first[0])
    assert torch.equal(changed[1:], first[1:])


def test_writing_into_the_photos_does_not_reach_the_file(photos, tmp_path):
    pixels, _ = open_cache(files_in(photos), 8, tmp_path)
    before = pixels.clone()
    pixels.zero_()
    assert torch.equal(open_cache(files_in(photos), 8, tmp_path)[0], before)


def test_processes_at_the_same_time_share_one_decoding(photos, tmp_path):
    code = (
        "import sys\n"
        "from cache import open_cache\n"
        "def progress(things, total):\n"
        "    print('decoding', flush=True)\n"
        "    return things\n"
        "pixels, _ = open_cache(sys.argv[2:], 16, __import__('pathlib').Path(sys.argv[1]),\n"
        "    progress=progress, say=lambda text: None)\n"
        "print(int(pixels.long().sum()))\n"
    )
    words = ["-W", "error", "-c", code, tmp_path, *files_in(photos)]
    with ExitStack() as stack:
        started = [stack.enter_context(Program(words)) for _ in range(3)]
        lines = [process.stdout.read().split() for process in started]
        assert [process.wait() for process in started] == [0] * 3, lines
    assert sum(line[0] == "decoding" for line in lines) == 1
    assert len({line[-1] for line in lines}) == 1


def test_a_process_killed_while_decoding_leaves_nothing_that_is_trusted(photos, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from cache import open_cache\n"
        "def progress(things, total):\n"
        "    for number, thing in enumerate(things):\n"
        "        if number == 10:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield thing\n"
        "open_cache(sys.argv[2:], 16, __import__('pathlib').Path(sys.argv[1]), progress=progress)\n"
    )
    killed = run(["-W", "error", "-c", code, tmp_path, *files_in(photos)])
    assert killed.returncode == -9
    assert [path.suffix for path in tmp_path.iterdir()].count(".tmp") == 1
    pixels, _ = open_cache(files_in(photos), 16, tmp_path)
    fresh, _ = open_cache(files_in(photos), 16, tmp_path / "another")
    assert torch.equal(pixels, fresh)
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [
        ".json",
        ".lock",
        ".u8",
    ]


@pytest.mark.parametrize("harm", ["cut", "gone", "unfinished"])
def test_a_cache_that_is_not_whole_is_made_again(photos, tmp_path, harm):
    before = open_cache(files_in(photos), 8, tmp_path)[0].clone()
    (pixels,), (notes,) = tmp_path.glob("*.u8"), tmp_path.glob("*.json")
    if harm == "cut":
        os.truncate(pixels, 100)
    elif harm == "gone":
        pixels.unlink()
    else:
        notes.write_text("{")
    assert torch.equal(open_cache(files_in(photos), 8, tmp_path)[0], before)


def test_a_full_disk_keeps_the_photos_in_memory_and_says_so(photos, tmp_path):
    code = (
        "import resource, sys\n"
        "from cache import open_cache\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "pixels, _ = open_cache(sys.argv[2:], 16, __import__('pathlib').Path(sys.argv[1]))\n"
        "print(int(pixels.long().sum()))\n"
    )
    done = run(["-W", "error", "-c", code, tmp_path / "full", *files_in(photos)])
    assert (done.returncode, done.stderr) == (0, "")
    said, total = done.stdout.splitlines()
    assert said.startswith(f"No cache of the photos in {tmp_path / 'full'} (")
    assert int(total) == int(open_cache(files_in(photos), 16, tmp_path / "ok")[0].long().sum())
    assert {path.suffix for path in (tmp_path / "full").iterdir()} <= {".lock"}


def test_where_room_cannot_be_asked_for_it_is_taken(photos, tmp_path, monkeypatch):
    expected, _ = open_cache(files_in(photos), 16, tmp_path / "one")
    monkeypatch.delattr(os, "posix_fallocate")  # as on macOS
    pixels, _ = open_cache(files_in(photos), 16, tmp_path / "other")
    assert torch.equal(pixels, expected)
    assert len(list((tmp_path / "other").glob("*.u8"))) == 1


def test_old_caches_go_first(photos, tmp_path):
    files = files_in(photos)
    for number in range(KEPT + 2):
        open_cache(files, 8 * (number + 1), tmp_path)
        newest = tmp_path / f"{cache.digest(files, 8 * (number + 1))}.u8"
        os.utime(newest, (1_000_000 + number, 1_000_000 + number))
    kept = {path.stat().st_size for path in tmp_path.glob("*.u8")}
    assert kept == {24 * 3 * (8 * (number + 1)) ** 2 for number in range(2, KEPT + 2)}
    assert len(list(tmp_path.glob("*.json"))) == KEPT


def test_what_cannot_be_read_is_named_and_stays_so(copies, tmp_path):
    (copies / "field/3.jpg").write_bytes((copies / "field/3.jpg").read_bytes()[:300])
    (copies / "ocean/5.jpg").write_bytes(b"")
    files = files_in(copies)
    for _ in range(2):
        pixels, unreadable = open_cache(files, 8, tmp_path / "cache")
        assert {os.path.relpath(files[i], copies) for i in unreadable} == {
            "field/3.jpg",
            "ocean/5.jpg",
        }
        assert all(unreadable.values())
        assert not pixels[list(unreadable)].any()
    (notes,) = (tmp_path / "cache").glob("*.json")
    assert len(json.loads(notes.read_text())) == 2
