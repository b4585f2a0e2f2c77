import errno
import os
import re
import signal
import subprocess
import sys

import colorize
import pytest
import torch
from checkpoint import NonFinite, load_weights, save_weights, write_whole
from conftest import WORKLOAD
from data_utils import get_colorized_dataset_loader
from options import parse_arguments
from pictures import gray_copy, psnr
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from unet import UNet

TINY = ["--batch_size", "2", "--image_size", "16"]


def command(photos, out_dir, *flags):
    """The command line of one training."""
    script = [sys.executable, "-W", "error", "colorize.py"]
    return [*script, "--data_path", str(photos), "--out_dir", str(out_dir), *flags]


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """What `python colorize.py` printed and wrote in two steps."""
    out_dir = tmp_path_factory.mktemp("out") / "new folder"
    done = subprocess.run(
        command(photos, out_dir, *TINY, "--train_samples", "4", "--epochs", "1"),
        cwd=WORKLOAD,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, out_dir


@pytest.fixture(scope="module")
def events(trained):
    (run,) = (trained[1] / "runs/UNet").iterdir()
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


def test_the_log_has_a_readable_line_per_state_and_one_per_epoch(trained):
    output, _ = trained
    assert "\r" not in output
    assert all(line == line.strip() for line in output.splitlines())
    assert "4 photos to train on, 2 to validate on" in output
    number = r"-?\d+\.\d+"
    epoch = rf"^epoch 1/1: loss {number}, {number} images/s, "
    epoch += rf"validation PSNR {number} dB \(gray copy {number} dB\)$"
    assert len(re.findall(epoch, output, re.MULTILINE)) == 1


def test_the_weights_alone_fill_the_courses_net(trained):
    _, out_dir = trained
    state = torch.load(out_dir / "unet.pth", weights_only=True)
    net = UNet()
    net.load_state_dict(state)
    assert "downsample_block_1.conv_block.0.weight" in state
    assert all(value.dtype is torch.float32 and value.is_contiguous() for value in state.values())
    assert net(torch.zeros(1, 1, 16, 16)).isfinite().all()


def test_only_whole_files_are_left(trained):
    _, out_dir = trained
    assert {path.name for path in out_dir.iterdir()} == {"unet.pth", "sample.png", "runs"}
    with Image.open(out_dir / "sample.png") as sample:
        sample.load()
        assert sample.width > 3 * 150


def test_tensorboard_has_the_courses_tags(events):
    tags = events.Tags()
    assert "training loss" in tags["scalars"]
    assert {"validation PSNR", "validation PSNR, gray copy"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"Input", "Predicted", "Ground truth"}
    assert tags["graph"] is True


def test_pictures_come_before_the_first_epoch_ends(events):
    assert [event.step for event in events.Images("Predicted")] == [1, 2]


def test_the_graph_shows_the_blocks_of_the_net(events):
    scopes = {
        node.name.split("/")[1].partition("[")[2]
        for node in events.Graph().node
        if node.name.startswith("UNet/")
    }
    blocks = {f"{way}sample_block_{i}]" for way in ("down", "up") for i in (1, 2, 3)}
    assert blocks <= scopes


def test_the_input_grid_is_a_picture_not_clipped_at_gray(photos):
    gray, colour = next(iter(get_colorized_dataset_loader(photos, image_size=16, batch_size=24)))
    shown = gray_copy(gray)
    assert gray.min() < 0 < gray.max()
    assert shown.shape == colour.shape
    assert shown.min() >= 0 and shown.max() <= 1
    assert torch.allclose(shown.mean(dim=(1, 2, 3)), colour.mean(dim=(1, 2, 3)), atol=0.15)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_the_bare_training_of_the_course_lowers_the_loss(photos, capsys, monkeypatch, dtype):
    monkeypatch.setattr(colorize, "autocast_dtype", lambda _device: dtype)
    torch.manual_seed(0)
    net = UNet()
    loader = get_colorized_dataset_loader(photos, image_size=8, batch_size=6)
    colorize.train(net, torch.optim.Adam(net.parameters(), lr=3e-3), loader, epochs=6)
    losses = [float(loss) for loss in re.findall(r": loss (\S+),", capsys.readouterr().out)]
    assert len(losses) == 6
    assert losses[-1] < losses[0] / 2


def test_the_same_seed_gives_the_same_weights(photos, tmp_path):
    flags = ["--data_path", str(photos), *TINY, "--train_samples", "4", "--epochs", "1"]
    states = []
    for number, seed in enumerate((1, 1, 2)):
        out_dir = tmp_path / str(number)
        assert colorize.main([*flags, "--seed", str(seed), "--out_dir", str(out_dir)]) == 0
        states.append(torch.load(out_dir / "unet.pth", weights_only=True)["last_conv.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_loader_processes_give_the_same_photos(photos, tmp_path):
    flags = ["--data_path", str(photos), *TINY, "--train_samples", "4", "--epochs", "1"]
    for workers in ("0", "2"):
        assert (
            colorize.main([*flags, "--num_workers", workers, "--out_dir", str(tmp_path / workers)])
            == 0
        )
    one, other = (torch.load(tmp_path / w / "unet.pth", weights_only=True) for w in "02")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_its_code(photos, tmp_path, signum, code):
    with subprocess.Popen(
        command(photos, tmp_path, *TINY, "--epochs", "100000"),
        cwd=WORKLOAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output = ""
        for line in process.stdout:
            output += line
            if line.startswith("epoch 1/100000: loss"):
                process.send_signal(signum)
    assert process.returncode == code, output
    assert output.splitlines()[-1].startswith(f"Stopped by {signum.name}: the weights so far are")
    load_weights(UNet(), tmp_path / "unet.pth")
    assert {path.name for path in tmp_path.iterdir()} == {"unet.pth", "sample.png", "runs"}


def test_a_diverging_training_stops_and_keeps_the_last_good_file(photos, tmp_path, capsys):
    save_weights(UNet(), tmp_path / "unet.pth")
    good = (tmp_path / "unet.pth").read_bytes()
    flags = ["--data_path", str(photos), "--out_dir", str(tmp_path), *TINY, "--lr", "1e30"]
    assert colorize.main([*flags, "--epochs", "5"]) == 1
    error = capsys.readouterr().err
    assert "diverged" in error and "--lr" in error and "keeps the last good weights" in error
    assert (tmp_path / "unet.pth").read_bytes() == good


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    net = UNet()
    net.last_conv.bias.data[0] = float("nan")
    with pytest.raises(NonFinite):
        save_weights(net, tmp_path / "unet.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "unet.pth").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "unet.pth", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_loading_weights_runs_no_code(tmp_path):
    torch.save({"last_conv.bias": os.system}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"weights_only|Unsupported"):
        load_weights(UNet(), tmp_path / "evil.pth")


def test_no_photos_is_one_sentence_and_code_2(tmp_path):
    done = subprocess.run(
        command(tmp_path / "nowhere", tmp_path / "out"),
        cwd=WORKLOAD,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "scripts/download_landscapes.sh" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        "--image_size 30",
        "--image_size 0",
        "--epochs 0",
        "--epochs x",
        "--lr nan",
        "--lr -1",
        "--batch_size -3",
        "--train_samples 0",
        "--num_workers -1",
        "--unknown",
    ],
)
def test_bad_flags_name_themselves(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(flags.split(), "", cuda=False)
    assert stopped.value.code == 2
    assert flags.split()[0] in capsys.readouterr().err


def test_defaults_shrink_without_a_gpu_and_say_so_in_one_line(capsys):
    small = parse_arguments(["--epochs", "9"], "", cuda=False)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"--image_size {small.image_size} --train_samples {small.train_samples}" in said
    assert "--epochs" not in said and small.epochs == 9
    full = parse_arguments([], "", cuda=True)
    assert capsys.readouterr().out == ""
    assert (full.image_size, full.epochs, full.batch_size) == (224, 10, 32)
    assert full.train_samples is None
    assert (full.lr, str(full.data_path)) == (1e-3, "data/landscapes")


def test_psnr_of_a_known_error():
    truth = torch.full((2, 3, 8, 8), 0.5)
    pictures = truth + torch.tensor([0.1, 0.0]).view(2, 1, 1, 1)
    assert psnr(pictures, truth).tolist() == pytest.approx([20.0, 60.0], abs=1e-3)
    assert psnr(torch.full_like(truth, 7.0), torch.ones_like(truth)).tolist() == [60.0, 60.0]
