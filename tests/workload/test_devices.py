import csv
import math

import devices
import pytest
import torch
from PIL import Image

from tests.workload.programs import run

NAMES = ["numbers", "CPU float32", "CPU float64", "CPU bfloat16"]


def test_without_a_gpu_the_processor_is_measured_against_itself(tmp_path):
    done = run(["devices.py", "--device", "cpu", "--largest", "6", "--out_dir", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert "cores" in done.stdout.splitlines()[0]
    assert "measured against itself" in done.stdout
    with (tmp_path / "devices.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head == NAMES
    assert [int(row[0]) for row in rows] == [2**n for n in range(7)]
    assert all(0 < float(cell) < 1 for row in rows for cell in row[1:])
    with Image.open(tmp_path / "devices.png") as picture:
        assert picture.size == devices.SIZE


def test_work_is_repeated_until_the_clock_can_be_trusted_and_waited_for(monkeypatch):
    now, done = [0.0], [0]

    def work():
        done[0] += 1

    def wait():  # as of a GPU: the work takes its time only now
        now[0] += 1e-4 * done[0]
        done[0] = 0

    monkeypatch.setattr(devices.time, "perf_counter", lambda: now[0])
    assert devices.seconds_of(work, wait) == pytest.approx(1e-4)


def test_the_crossover_is_where_one_stays_the_quicker():
    slow = devices.Series("slow", {0: 1.0, 1: 1.0, 2: 3.0, 3: 9.0})
    fast = devices.Series("fast", {0: 0.5, 1: 2.0, 2: 2.0, 3: 2.0})
    assert devices.crossover(slow, fast) == 2
    assert devices.crossover(fast, slow) is None
    lacking = devices.Series("no memory", {**fast.seconds, 3: math.nan})
    assert devices.crossover(slow, lacking) is None
    assert devices.draw([slow, lacking])


def test_a_size_that_finds_no_memory_is_left_out(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(devices.torch, "rand", full)
    one = devices.Contestant("CPU float32", torch.device("cpu"), torch.float32)
    assert all(map(math.isnan, devices.measure(one, 2).seconds.values()))


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["--largest", "99"], 2, "--largest"),
        (["--device", "gpu"], 1, "no GPU"),
        (["--largest", "0", "--out_dir", "/proc/none"], 1, "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(flags, code, sentence, tmp_path):
    done = run(["devices.py", "--out_dir", str(tmp_path), *flags])
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
