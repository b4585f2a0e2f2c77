import math

import fit_sine
import numpy as np
import pytest
from PIL import Image

from tests.workload.programs import run


def by_numpy(points, steps, rate, start):
    """The same descent, written once more without torch."""
    x = np.linspace(-math.pi, math.pi, points, dtype=np.float32)
    powers = np.stack([x**power for power in range(4)])
    weights = np.array(start, dtype=np.float32)
    for _ in range(steps):
        weights = weights - rate * 2 * powers @ (weights @ powers - np.sin(x))
    return weights


def test_the_fit_is_the_descent_of_numpy():
    import torch

    start = torch.randn(4, generator=torch.Generator().manual_seed(3)).numpy()
    config = fit_sine.FitConfig(points=500, steps=300, seed=3)
    found = fit_sine.fit(config, torch.device("cpu"))
    assert found == pytest.approx(by_numpy(500, 300, 1e-6, start), abs=2e-4)


def test_it_prints_every_hundredth_loss_and_leaves_a_picture(tmp_path):
    done = run(["fit_sine.py", "--device", "cpu", "--picture", str(tmp_path / "fit.png")])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    losses = [float(line.split()[-1]) for line in lines if line.startswith("step")]
    assert len(losses) == 20
    assert losses == sorted(losses, reverse=True)
    assert lines[-2].startswith("Result: y = ")
    assert lines[-2].count(" x") == 3
    with Image.open(tmp_path / "fit.png") as picture:
        assert picture.size == fit_sine.SIZE


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["--steps", "0"], 2, "--steps"),
        (["--rate", "nan"], 2, "--rate"),
        (["--rate", "1"], 1, "smaller --rate"),
        (["--device", "gpu"], 1, "no GPU"),
        (["--device", "abacus"], 1, "error: "),
        (["--picture", "/proc/none/x.png"], 1, "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(flags, code, sentence, tmp_path):
    done = run(["fit_sine.py", "--picture", str(tmp_path / "fit.png"), *flags])
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
