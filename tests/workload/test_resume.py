import json
import os
import re
import shutil
import signal
import subprocess
import sys

import colorize
import pytest
import torch
from checkpoint import remove_temporary_files, save_weights
from models import create_net
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from unet import UNet

from tests.workload.programs import Program, run

# 8 photos in batches of 2: 4 steps an epoch
SMALL = ["--batch_size", "2", "--image_size", "16", "--train_samples", "8", "--epochs", "3"]

# Kills its process when a function is called for the last time: as power cuts do.
KILLED = """
import os, signal, sys
import colorize

where, last, *words = sys.argv[1:]
# at an fsync a file is written, but has not got its name
module, name = (os, "fsync") if where == "fsync" else (colorize, where)
function, calls = getattr(module, name), 0

def mortal(*args, **kwargs):
    global calls
    calls += 1
    if calls == int(last):
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*args, **kwargs)

setattr(module, name, mortal)
sys.exit(colorize.main(words))
"""


def flags(photos, out_dir, *more):
    return ["--data_path", str(photos), "--out_dir", str(out_dir), *SMALL, *more]


def weights(out_dir):
    return torch.load(out_dir / "unet.pth", weights_only=True)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    """What a training that nobody interrupts ends with."""
    out_dir = tmp_path_factory.mktemp("undisturbed")
    assert colorize.main(flags(photos, out_dir)) == 0
    return out_dir


@pytest.mark.parametrize(
    ("where", "last"),
    [
        ("train_step", 2),
        ("fsync", 8),
        ("fsync", 9),
        ("save_sample", 1),
        pytest.param("train_step", 6, marks=pytest.mark.exhaustive),
        pytest.param("fsync", 4, marks=pytest.mark.exhaustive),
    ],
)
def test_after_kill_9_anywhere_the_same_command_ends_with_the_same_bits(
    photos, tmp_path, undisturbed, where, last
):
    killed = run(["-c", KILLED, where, last, *flags(photos, tmp_path)])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert colorize.main(flags(photos, tmp_path)) == 0
    assert same(weights(tmp_path), weights(undisturbed))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in undisturbed.iterdir()}, "no half files are left"
    ours, theirs = (json.loads((d / "history.json").read_text()) for d in (tmp_path, undisturbed))
    assert ours == theirs


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_the_middle_of_an_epoch_saves_and_the_same_command_goes_on(
    photos, tmp_path, signum, code
):
    many = [*flags(photos, tmp_path), "--train_samples", "21", "--epochs", "100"]
    with Program(["-W", "error", "colorize.py", *many]) as process:
        output = ""
        for line in process.stdout:
            output += line
            if line.startswith("epoch 1/100: loss"):
                process.send_signal(signum)
        assert process.wait() == code, output
    assert output.splitlines()[-1].startswith(f"Stopped by {signum.name}: the weights so far are")
    found = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert same(weights(tmp_path), found["net"])
    assert found["progress"]["steps"] >= 11
    UNet().load_state_dict(weights(tmp_path))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"unet.pth", "checkpoint.pt", "history.json", "sample.png", "runs"}


def test_where_it_was_stopped_does_not_matter(photos, tmp_path, undisturbed, monkeypatch):
    stopping = colorize.StopRequest
    for stop_at in (3, 7):

        class Stopping(stopping):
            def check(self, any_process=bool, stop_at=stop_at):
                self.steps = getattr(self, "steps", 0) + 1
                if self.steps == stop_at:
                    self.signum = signal.SIGTERM
                super().check(any_process)

        monkeypatch.setattr(colorize, "StopRequest", Stopping)
        assert colorize.main(flags(photos, tmp_path)) == 143
    monkeypatch.setattr(colorize, "StopRequest", stopping)
    assert colorize.main(flags(photos, tmp_path)) == 0
    assert same(weights(tmp_path), weights(undisturbed))


def test_an_epoch_whose_validation_was_stopped_is_validated_later(
    photos, tmp_path, undisturbed, monkeypatch
):
    validate = colorize.validate

    def stopped_in_its_middle(net, loader, dtype, check_stop):
        signal.raise_signal(signal.SIGTERM)
        return validate(net, loader, dtype, check_stop)

    monkeypatch.setattr(colorize, "validate", stopped_in_its_middle)
    assert colorize.main(flags(photos, tmp_path)) == 143
    assert json.loads((tmp_path / "history.json").read_text()) == []
    monkeypatch.setattr(colorize, "validate", validate)
    assert colorize.main(flags(photos, tmp_path)) == 0
    assert same(weights(tmp_path), weights(undisturbed))
    ours, theirs = (json.loads((d / "history.json").read_text()) for d in (tmp_path, undisturbed))
    assert ours == theirs and all("psnr" in epoch for epoch in ours)


@pytest.fixture(scope="module")
def one_epoch(photos, tmp_path_factory):
    """What a training of one epoch ends with."""
    out_dir = tmp_path_factory.mktemp("one epoch")
    assert colorize.main([*flags(photos, out_dir), "--epochs", "1"]) == 0
    return out_dir


def finished(one_epoch, out_dir):
    """Make `out_dir` a folder where a training of one epoch has ended."""
    shutil.copytree(one_epoch, out_dir, dirs_exist_ok=True)


def interrupted(one_epoch, out_dir):
    """Make `out_dir` a folder where a training was stopped after its first epoch."""
    finished(one_epoch, out_dir)
    found = torch.load(out_dir / "trained.pt", weights_only=True)
    found["settings"]["epochs"] = 3
    torch.save(found, out_dir / "checkpoint.pt")


def test_a_checkpoint_of_another_configuration_is_refused_and_kept(
    photos, one_epoch, tmp_path, capsys
):
    interrupted(one_epoch, tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    assert colorize.main(flags(photos, tmp_path, "--lr", "5e-3", "--batch_size", "4")) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "lr was 0.001 and is now 0.005" in error
    assert "batch_size was 2 and is now 4" in error
    assert "seed" not in error and "--resume none" in error
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_more_epochs_than_the_interrupted_training_had_need_the_files_name(
    photos, one_epoch, tmp_path, capsys
):
    interrupted(one_epoch, tmp_path)
    longer = [*flags(photos, tmp_path), "--epochs", "4"]
    assert colorize.main(longer) == 2
    hint = f"--resume {tmp_path / 'checkpoint.pt'}"
    assert hint in capsys.readouterr().err
    assert colorize.main([*longer, *hint.split(" ", 1)]) == 0
    assert len(json.loads((tmp_path / "history.json").read_text())) == 4


def test_a_checkpoint_of_another_program_is_one_sentence(photos, one_epoch, tmp_path, capsys):
    interrupted(one_epoch, tmp_path)
    found = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({**found, "progress": {"time": 3}}, tmp_path / "checkpoint.pt")
    assert colorize.main(flags(photos, tmp_path)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "not a checkpoint of this program" in error


def test_leftovers_of_the_dead_are_deleted_and_the_files_of_the_living_stay(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    names = [f".unet.pth.{dead.pid}.tmp", f".unet.pth.{os.getpid()}.tmp", "unet.pth"]
    for name in names:
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])


def test_other_photos_are_another_configuration(photos, one_epoch, tmp_path, capsys):
    interrupted(one_epoch, tmp_path / "out")
    shutil.copytree(photos, tmp_path / "photos")
    for path in (tmp_path / "photos").rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + b" ")
    assert colorize.main(flags(tmp_path / "photos", tmp_path / "out")) == 2
    assert "photos was 8 photos" in capsys.readouterr().err


def test_resume_none_starts_over(photos, one_epoch, tmp_path, undisturbed):
    interrupted(one_epoch, tmp_path)
    assert colorize.main(flags(photos, tmp_path, "--resume", "none")) == 0
    assert same(weights(tmp_path), weights(undisturbed))


def test_a_finished_training_does_not_stand_in_the_way_of_the_next(
    photos, one_epoch, tmp_path, capsys
):
    finished(one_epoch, tmp_path)
    assert colorize.main([*flags(photos, tmp_path), "--epochs", "1", "--lr", "1e-4"]) == 0
    assert "Going on" not in capsys.readouterr().out


def test_a_finished_training_can_be_trained_for_longer(photos, one_epoch, tmp_path, capsys):
    finished(one_epoch, tmp_path)
    trained = str(tmp_path / "trained.pt")
    capsys.readouterr()
    assert colorize.main(flags(photos, tmp_path, "--resume", trained)) == 0
    printed = capsys.readouterr().out
    assert f"Going on from {trained}: epoch 2" in printed
    assert re.findall(r"^epoch (\d)/3: loss", printed, re.MULTILINE) == ["2", "3"]
    assert [epoch["epoch"] for epoch in json.loads((tmp_path / "history.json").read_text())] == [
        1,
        2,
        3,
    ]
    (run,) = (tmp_path / "runs/UNet").iterdir()
    events = EventAccumulator(str(run / "train"))
    events.Reload()
    assert [point.step for point in events.Scalars("training loss")][-1] == 12


def test_a_finished_training_is_not_replaced_by_an_interrupted_one_next_to_it(
    photos, tmp_path, undisturbed
):
    shutil.copy(undisturbed / "trained.pt", tmp_path / "trained.pt")
    found = torch.load(undisturbed / "trained.pt", weights_only=True)
    found["net"]["last_conv.bias"] += 1
    torch.save(found, tmp_path / "checkpoint.pt")
    trained = str(tmp_path / "trained.pt")
    assert colorize.main(flags(photos, tmp_path, "--resume", trained)) == 0
    assert same(torch.load(trained, weights_only=True)["net"], weights(undisturbed))
    assert same(weights(tmp_path), weights(undisturbed))


def test_weights_alone_can_be_resumed_and_epochs_counted_from_anywhere(
    photos, tmp_path, undisturbed, capsys
):
    start = ["--resume", str(undisturbed / "unet.pth"), "--initial_epoch", "2"]
    assert colorize.main(flags(photos, tmp_path, *start)) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^epoch (\d)/3: loss", printed, re.MULTILINE) == ["3"]
    assert not same(weights(tmp_path), weights(undisturbed))


def test_weights_of_the_other_model_name_the_flag(photos, tmp_path, capsys):
    save_weights(create_net("half"), tmp_path / "half.pth")
    start = ["--resume", str(tmp_path / "half.pth"), "--epochs", "1"]
    assert colorize.main([*flags(photos, tmp_path), *start]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "weights of --model half" in error and "Add --model half" in error
    assert colorize.main([*flags(photos, tmp_path), *start, "--model", "half"]) == 0


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", b"PK\3\4 half"])
def test_a_file_that_is_not_a_checkpoint_is_one_sentence(photos, tmp_path, capsys, content):
    file = tmp_path / "it's a checkpoint.pt"
    if content is not None:
        file.write_bytes(content)
    assert colorize.main(flags(photos, tmp_path / "out", "--resume", str(file))) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert str(file) in error
