"""What fits a time: decisions on made-up costs, and trainings of a few steps with them."""

import json
import re
import signal

import budget
import colorize
import fitter
import pytest
import torch
from budget import (
    IMAGE_SIZES,
    MAX_EPOCHS,
    EpochPlan,
    StepCost,
    choose_image_size,
    choose_length,
    choose_threads,
    time_step,
)
from checkpoint import CheckpointError, parse_settings
from models import MODELS
from options import parse_arguments
from resume import Checkpoint, adopt

BATCH = 8


def plan(step_s):
    """Epochs whose training steps of 8 photos take so long, and validation half of it."""
    return EpochPlan(StepCost(step_s, step_s / 2), BATCH, lambda photos: photos // 4)


def test_the_median_step_counts_and_the_first_does_not(monkeypatch):
    monkeypatch.setattr(budget, "MEASURED_S", 12)
    taken, now = iter([100, 3, 9, 4]), 0

    def step():
        nonlocal now
        now += next(taken)

    assert time_step(step, clock=lambda: now) == 6  # of 3 and 9: together they are enough


def test_the_faster_number_of_threads_is_chosen():
    assert choose_threads({1: StepCost(0.6, 1), 2: StepCost(3, 0.1)}) == 1
    assert choose_threads({1: StepCost(0.6, 1), 2: StepCost(0.4, 2)}) == 2


def test_all_sizes_suit_all_nets():
    assert not [s for s in IMAGE_SIZES for model in MODELS.values() if s % model.side_multiple]


def test_more_time_gives_larger_pictures_then_more_photos_and_epochs():
    found = []
    for left_s in (1, 30, 120, 600, 3600):
        size = choose_image_size(plan(0.05), 64, 3000, left_s)
        cost = plan(0.05).cost.at_size(64, size)
        photos, epochs = choose_length(EpochPlan(cost, BATCH, lambda n: n // 4), 3000, left_s)
        found.append((size, photos * epochs))
    assert found == sorted(found)
    assert found[0][0] == IMAGE_SIZES[0] and found[-1][0] == IMAGE_SIZES[-1]


@pytest.mark.parametrize("available", [10, 60, 234, 3000])
@pytest.mark.parametrize("left_s", [5, 30, 120, 600])
@pytest.mark.parametrize("step_s", [0.002, 0.05, 3])
def test_what_is_chosen_fits_the_time_or_is_the_least(available, left_s, step_s):
    for given in ({}, {"photos": 8}, {"epochs": 3}):
        photos, epochs = choose_length(plan(step_s), available, left_s, **given)
        assert (photos, epochs) == (given.get("photos", photos), given.get("epochs", epochs))
        assert min(BATCH, available) <= photos <= available and 1 <= epochs <= MAX_EPOCHS
        is_least = photos == min(BATCH, available) or "photos" in given
        is_least &= epochs == 1 or "epochs" in given
        assert plan(step_s).epoch_s(photos) * epochs <= left_s or is_least


def test_a_time_is_filled():
    photos, epochs = choose_length(plan(0.05), 3000, 120)
    assert 0.8 * 120 < plan(0.05).epoch_s(photos) * epochs <= 120
    photos, epochs = choose_length(plan(0.4), 3000, 120, epochs=2)
    assert 0.95 * 120 < plan(0.4).epoch_s(photos) * 2 <= 120


@pytest.fixture
def few_epochs(monkeypatch):
    """Make trainings choose all 22 photos and three epochs, on one of two threads."""
    costs = {1: StepCost(0.1, 0.1), 2: StepCost(0.2, 0.2)}
    monkeypatch.setattr(fitter, "measure_step", lambda *_: costs[torch.get_num_threads()])
    monkeypatch.setattr(fitter.Fitter, "left_s", lambda self: 2.9)
    yield
    torch.set_num_threads(1)


def fitted(photos, out_dir, *more):
    torch.set_num_threads(2)
    small = ["--batch_size", "8", "--image_size", "16"]
    return ["--data_path", str(photos), "--out_dir", str(out_dir), *small, *more]


def history(out_dir):
    return json.loads((out_dir / "history.json").read_text())


def nothing_is_measured(*_):
    raise AssertionError


@pytest.mark.usefixtures("few_epochs")
def test_what_was_chosen_is_printed_stored_and_resumed_to_the_same_bits(
    photos, tmp_path, monkeypatch, capsys
):
    assert colorize.main(fitted(photos, tmp_path / "undisturbed")) == 0
    printed = capsys.readouterr().out
    (line,) = re.findall(".* minutes: .*", printed)
    assert line.startswith("No CUDA GPU here, so about 2 minutes: --image_size 16 ")
    assert "--train_samples 22 --epochs 3, 1 thread, 0.100 s a step" in line
    assert len(history(tmp_path / "undisturbed")) == 3

    class Stopping(colorize.StopRequest):
        def check(self, any_process=bool):
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps == 6:
                self.signum = signal.SIGTERM
            super().check(any_process)

    with monkeypatch.context() as stopped:
        stopped.setattr(colorize, "StopRequest", Stopping)
        assert colorize.main(fitted(photos, tmp_path)) == 143
    found = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    settings = {name: found["settings"][name] for name in ("train_samples", "epochs", "minutes")}
    assert settings == {"train_samples": 22, "epochs": 3, "minutes": 2}
    assert found["settings"]["threads"] == 1

    monkeypatch.setattr(fitter, "measure_step", nothing_is_measured)
    assert colorize.main(fitted(photos, tmp_path)) == 0
    assert torch.get_num_threads() == 1
    assert history(tmp_path) == history(tmp_path / "undisturbed")
    one, other = (
        torch.load(folder / "unet.pth", weights_only=True)
        for folder in (tmp_path, tmp_path / "undisturbed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("few_epochs")
def test_another_time_is_another_configuration_unless_the_file_is_named(photos, tmp_path, capsys):
    assert colorize.main(fitted(photos, tmp_path, "--minutes", "1")) == 0
    trained = tmp_path / "trained.pt"
    (tmp_path / "checkpoint.pt").write_bytes(trained.read_bytes())
    assert colorize.main(fitted(photos, tmp_path, "--minutes", "3")) == 2
    assert "minutes was 1.0 and is now 3.0" in capsys.readouterr().err
    longer = ["--resume", str(trained), "--minutes", "3"]
    assert colorize.main(fitted(photos, tmp_path, *longer)) == 0
    assert "--epochs 6" in capsys.readouterr().out
    assert len(history(tmp_path)) == 6


def test_steps_are_measured_here_for_a_training_of_no_time(photos, tmp_path, capsys):
    flags = ["--data_path", str(photos), "--out_dir", str(tmp_path), "--minutes", "0.001"]
    assert colorize.main([*flags, "--batch_size", "2", "--model", "half"]) == 0
    printed = capsys.readouterr().out
    assert f"--image_size {IMAGE_SIZES[0]} --train_samples 2 --epochs 1, 1 thread," in printed
    assert len(history(tmp_path)) == 1


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (True, "not a checkpoint of this program: its image_size"),
        (30, "not a checkpoint of this program: --image_size"),
        (1 << 14, "image_size was 16384 and is now 80"),
    ],
)
def test_a_size_in_a_checkpoint_that_cannot_be_is_refused(photos, tmp_path, capsys, value, why):
    flags = ["--data_path", str(photos), "--out_dir", str(tmp_path), "--batch_size", "2"]
    once = ["--image_size", "16", "--train_samples", "2", "--epochs", "1"]
    assert colorize.main([*flags, *once]) == 0
    found = torch.load(tmp_path / "trained.pt", weights_only=True)
    found["settings"]["image_size"] = value
    torch.save(found, tmp_path / "checkpoint.pt")
    assert colorize.main(flags) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert why in error


def adopted(tmp_path, *flags, **settings):
    config = parse_arguments(["--minutes", "1", *flags], None, cuda=False)
    kept = {"model": "unet", "image_size": 80, "epochs": 3, "train_samples": 8} | settings
    return adopt(config, Checkpoint(tmp_path / "checkpoint.pt", {}, kept, is_explicit=False))


@pytest.mark.parametrize("name", ["epochs", "train_samples", "image_size", "threads"])
def test_a_number_in_a_checkpoint_that_would_take_for_ever_is_not_adopted(tmp_path, name):
    own = getattr(parse_arguments(["--minutes", "1"], None, cuda=False), name)
    assert getattr(adopted(tmp_path, **{name: 10**12}), name) == own
    assert getattr(adopted(tmp_path, **{name: 16}), name) == 16


@pytest.mark.parametrize("value", [10**400, -(10**400), 1 << 53])
def test_settings_hold_no_number_that_is_no_count(value):
    with pytest.raises(ValueError, match="settings"):
        parse_settings({"epochs": value})


def test_the_size_that_is_chosen_is_larger_than_the_crop():
    assert choose_image_size(plan(3), 64, 3000, 1, crop=70) == 80
    assert choose_image_size(plan(3), 64, 3000, 1, crop=48) == 64


def test_a_crop_that_an_adopted_size_does_not_allow_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"^--crop: fewer pixels than --image_size 48"):
        adopted(tmp_path, "--crop", "70", image_size=48)
