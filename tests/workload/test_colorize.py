import errno
import os
import re
import subprocess
import sys

import colorize
import pytest
import torch
from checkpoint import CheckpointError, NonFiniteError, atomic_write, save_weights
from conftest import WORKLOAD
from data_utils import get_colorized_dataset_loader
from inference import predict
from models import MODELS, create_net, load_net
from oom import BYTES_PER_PHOTO, is_out_of_memory, suggest_batch_size
from options import parse_arguments
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from unet import UNet

from tests.workload.programs import run

TINY = ["--batch_size", "2", "--image_size", "16"]


def command(photos, out_dir, *flags):
    """The words after `python` of one training."""
    script = ["-W", "error", "colorize.py"]
    return [*script, "--data_path", str(photos), "--out_dir", str(out_dir), *flags]


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """What `python colorize.py`, a process from its start on, printed and wrote in two steps."""
    out_dir = tmp_path_factory.mktemp("out") / "new folder"
    done = subprocess.run(
        [sys.executable, *command(photos, out_dir, *TINY, "--train_samples", "4", "--epochs", "1")],
        cwd=WORKLOAD,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, out_dir


def events_of(out_dir, writer):
    (run,) = (out_dir / "runs/UNet").iterdir()
    accumulator = EventAccumulator(str(run / writer), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def events(trained):
    return events_of(trained[1], "train")


def test_the_log_has_a_readable_line_per_state_and_one_per_epoch(trained):
    output, _ = trained
    assert "\r" not in output
    assert all(line == line.strip() for line in output.splitlines())
    assert "4 photos to train on, 2 to validate on" in output
    number = r"-?\d+\.\d+"
    epoch = rf"^epoch 1/1: loss {number}, {number} images/s, "
    epoch += rf"validation PSNR {number} dB \(gray copy {number} dB\), "
    epoch += rf"SSIM {number} \({number}\), colourfulness {number} \(truth {number}\)$"
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
    assert {path.name for path in out_dir.iterdir()} == {
        "unet.pth",
        "trained.pt",
        "history.json",
        "sample.png",
        "runs",
    }
    with Image.open(out_dir / "sample.png") as sample:
        sample.load()
        assert sample.width > 3 * 150


def test_tensorboard_has_the_courses_tags(events):
    tags = events.Tags()
    assert "training loss" in tags["scalars"]
    assert set(tags["images"]) == {"Input", "Predicted", "Ground truth"}
    assert tags["graph"] is True
    assert not tags["histograms"]


def test_the_test_writer_has_the_scores(trained):
    curves = events_of(trained[1], "test")
    for name in ("PSNR", "PSNR, gray copy", "SSIM", "SSIM, gray copy", "colourfulness"):
        (point,) = curves.Scalars(f"validation {name}")
        assert point.step == 2


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


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_the_bare_training_of_the_course_lowers_the_loss(photos, capsys, precision):
    torch.manual_seed(0)
    net = UNet()
    loader = get_colorized_dataset_loader(photos, image_size=8, batch_size=6)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    colorize.train(net, optimizer, loader, epochs=6, precision=precision)
    losses = [float(loss) for loss in re.findall(r": loss (\S+),", capsys.readouterr().out)]
    assert len(losses) == 6
    assert losses[-1] < losses[0] / 2


def test_the_rate_warms_up_peaks_once_and_ends_near_0():
    rates = [colorize.learning_rate(step, 200, 1e-3) for step in range(200)]
    assert rates[0] == pytest.approx(5e-5)
    assert max(rates) == pytest.approx(1e-3) and rates.index(max(rates)) in (19, 20)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 1e-6
    assert all(0 < colorize.learning_rate(step, 3, 1.0) <= 1 for step in range(3))
    assert colorize.learning_rate(0, 1, 1.0) == 1


def test_half_precision_of_a_t4_scales_its_loss_and_steps(photos):
    torch.manual_seed(0)
    net = UNet()
    before = net.last_conv.weight.clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loader = get_colorized_dataset_loader(photos, image_size=8, batch_size=24)
    optimizer = torch.optim.Adam(net.parameters())
    colorize.train(net, optimizer, loader, epochs=1, precision="fp16", scaler=scaler)
    assert not torch.equal(net.last_conv.weight, before)
    assert scaler.get_scale() == 1024.0, "no step was skipped"


def test_the_same_seed_gives_the_same_weights(photos, tmp_path):
    flags = ["--data_path", str(photos), *TINY, "--train_samples", "4", "--epochs", "1"]
    states = []
    for number, seed in enumerate((1, 1, 2)):
        out_dir = tmp_path / str(number)
        assert colorize.main([*flags, "--seed", str(seed), "--out_dir", str(out_dir)]) == 0
        states.append(torch.load(out_dir / "unet.pth", weights_only=True)["last_conv.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


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
    with pytest.raises(NonFiniteError):
        save_weights(net, tmp_path / "unet.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "unet.pth").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(tmp_path / "unet.pth", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_loading_weights_runs_no_code(tmp_path):
    torch.save({"last_conv.bias": os.system}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil.pth is not a file of weights"):
        load_net(tmp_path / "evil.pth")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_of_a_compiled_or_shared_net_fit(tmp_path, prefix):
    net = UNet()
    torch.save({prefix + key: w for key, w in net.state_dict().items()}, tmp_path / "net.pth")
    other = load_net(tmp_path / "net.pth")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_weights_of_another_net_are_one_sentence(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(CheckpointError, match="does not fit this net") as error:
        load_net(tmp_path / "linear.pth")
    assert "\n" not in str(error.value)


def test_no_photos_is_one_sentence_and_code_2(tmp_path):
    done = run(command(tmp_path / "nowhere", tmp_path / "out"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "scripts/download_landscapes.sh" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_full_memory_names_a_batch_that_fits(photos, tmp_path):
    code = (
        "import pathlib, resource, sys\n"
        "import colorize\n"
        "used = int(pathlib.Path('/proc/self/statm').read_text().split()[0])\n"
        "used *= resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28),) * 2)\n"
        "sys.exit(colorize.main(sys.argv[1:]))\n"
    )
    flags = command(photos, tmp_path, "--batch_size", "16", "--image_size", "256")[3:]
    done = run(["-W", "error", "-c", code, *flags])
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(r"The memory of this cpu is full: try --batch_size \d+\n", done.stderr)


def test_the_batch_that_fits_grows_with_the_memory_and_is_always_smaller():
    sizes = [suggest_batch_size(512, 224, torch.float16, gb * 10**9) for gb in (2, 4, 8, 16)]
    assert sizes == sorted(set(sizes)) and sizes[-1] < 512
    assert suggest_batch_size(512, 112, torch.float16, 16 * 10**9) > sizes[-1]
    assert suggest_batch_size(512, 224, None, 16 * 10**9) < sizes[-1]
    assert (
        suggest_batch_size(32, 224, None, 10**12) == suggest_batch_size(32, 224, None, None) == 16
    )
    assert suggest_batch_size(1, 224, None, 0) == 1
    assert suggest_batch_size(512, 224, torch.float16, 8 * 10**9, share=0.3) > 3 * sizes[2]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_step_keeps_no_more_memory_than_is_said(model, dtype):
    kept = {}  # by address: two layers may keep the same tensor

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    net = create_net(model)
    weights = {value.shape for value in net.parameters()}  # kept in another precision, too
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = predict(net, torch.rand(2, 1, 64, 64), dtype).square().mean()
    photos = [value for value in kept.values() if value.shape not in weights]
    size = sum(value.untyped_storage().nbytes() for value in photos) / 2
    said = BYTES_PER_PHOTO[dtype] * MODELS[model].memory * (64 / 224) ** 2
    assert loss.requires_grad and 0.4 * said < size < said


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "can't allocate memory",
    ],
)
def test_every_library_says_in_its_own_words_that_memory_is_full(words):
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_compiled_net_trains_and_its_weights_are_the_courses(photos, tmp_path, monkeypatch):
    compiled = []
    really = torch.compile

    def without_a_compiler(net, mode, **options):
        compiled.append((mode, options))
        return really(net, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", without_a_compiler)
    flags = ["--data_path", str(photos), *TINY, "--train_samples", "5", "--epochs", "2"]
    for name, mode in (("as it is", "off"), ("compiled", "reduce-overhead")):
        assert colorize.main([*flags, "--compile", mode, "--out_dir", str(tmp_path / name)]) == 0
    assert compiled == [("reduce-overhead", {"dynamic": False})]
    one, other = (
        torch.load(tmp_path / name / "unet.pth", weights_only=True)
        for name in ("as it is", "compiled")
    )
    assert list(one) == list(UNet().state_dict()) == list(other)
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


def test_histograms_come_on_request(photos, tmp_path):
    flags = ["--data_path", str(photos), *TINY, "--train_samples", "4", "--epochs", "1"]
    assert colorize.main([*flags, "--histograms", "--out_dir", str(tmp_path)]) == 0
    assert set(events_of(tmp_path, "train").Tags()["histograms"]) == set(UNet().state_dict())


@pytest.mark.parametrize(
    "flags",
    [
        "--image_size 30",
        "--image_size 0",
        "--image_size 24 --model half",
        "--model none",
        "--epochs 0",
        "--epochs x",
        "--lr nan",
        "--lr -1",
        "--batch_size -3",
        "--train_samples 0",
        "--num_workers -1",
        "--momentum 1",
        "--weight_decay -1",
        "--weight_decay nan",
        "--initial_epoch -1",
        "--precision int8",
        "--crop 999",
        "--images somewhere",
        "--minutes 0",
        "--minutes 1 --image_size 16 --train_samples 8 --epochs 1",
        "--unknown",
    ],
)
def test_bad_flags_name_themselves(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(flags.split(), "", cuda=False)
    assert stopped.value.code == 2
    assert flags.split()[0] in capsys.readouterr().err


def test_defaults_fit_a_time_without_a_gpu():
    small = parse_arguments(["--epochs", "9"], "", cuda=False)
    assert small.adjustable == {"minutes", "image_size", "train_samples"}
    assert (small.minutes, small.epochs, small.batch_size) == (2, 9, 8)
    full = parse_arguments([], "", cuda=True)
    assert (full.minutes, full.is_fitted) == (None, False)
    assert (full.image_size, full.epochs, full.batch_size) == (224, 10, 32)
    assert full.train_samples is None
    assert (full.lr, str(full.data_path)) == (1e-3, "data/landscapes")


def test_help_is_documentation():
    done = run(["-W", "error", "colorize.py", "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    flags = (WORKLOAD / "options.py").read_text()
    for flag in re.findall(r'"(--[a-z_]+)"', flags):
        assert flag in done.stdout
    assert "torchrun" in done.stdout and "exit codes" in done.stdout
