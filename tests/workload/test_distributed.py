import re
import signal

import colorize
import pytest
import torch
from loader import PhotoLoader
from unet import UNet

from tests.workload.programs import Program, run

# Each process writes the gradients that it holds after one step over its share of a batch.
ONE_STEP = """
import os
import sys
import torch
import torch.nn.functional as F
from loader import PhotoLoader
from distributed import init_distributed
from unet import UNet

torch.manual_seed(0)
pixels = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)

def step(context):
    torch.manual_seed(1)  # finding each other may draw numbers
    net = UNet()
    shard = {"rank": context.rank, "world_size": context.world_size}
    batches = PhotoLoader(pixels, range(5), 5, shuffle=True, **shard)
    ((gray, truth, weight),) = batches
    shared = context.parallelize(net)
    (F.mse_loss(shared(gray), truth) * weight).backward()
    gradients = {name: weights.grad for name, weights in net.named_parameters()}
    torch.save(gradients, f"{sys.argv[1]}/{context.world_size}-{context.rank}.pt")

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
with init_distributed() as context:
    step(context)
    assert context.any(False) is False
    assert context.any(context.rank == context.world_size - 1) is True
    assert context.broadcast_from_main(b"abc" if context.is_main else None) == b"abc"
    assert context.broadcast_from_main(b"" if context.is_main else None) == b""
    assert context.broadcast_from_main(None) is None
    assert context.max(context.rank + 0.5) == context.world_size - 0.5
# a thread of the group's that outlives it may abort the process at its end
assert threads() == before, threads()
"""

# Kills the second process at a step of the first life of the context.
MORTAL = """
import os, pathlib, signal, sys
import colorize

first_life = pathlib.Path(sys.argv[1])
steps, train_step = 0, colorize.train_step

def mortal(*args):
    global steps
    steps += 1
    if os.environ["RANK"] == "1" and steps == 7 and not first_life.exists():
        first_life.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(*args)

colorize.train_step = mortal
sys.exit(colorize.main(sys.argv[2:]))
"""


def two_processes(*arguments):
    """The words after `torchrun`, here of forked processes."""
    return ["--standalone", "--nproc_per_node=2", *arguments]


def flags(photos, out_dir):
    small = ["--batch_size", "4", "--image_size", "16", "--train_samples", "16", "--epochs", "3"]
    return ["--data_path", photos, "--out_dir", out_dir, *small]


def test_the_gradients_of_two_processes_are_those_of_one(tmp_path):
    program = tmp_path / "one_step.py"
    program.write_text(ONE_STEP)
    alone = run([str(program), str(tmp_path)])
    assert alone.returncode == 0, alone.stderr
    both = run(two_processes(program, tmp_path), program="torchrun")
    assert both.returncode == 0, both.stderr
    expected, *shared = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")
    )
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for gradients in shared:
        for name, gradient in expected.items():
            assert (gradients[name] - gradient).abs().max() <= 1e-6 * largest, name


@pytest.fixture(scope="module")
def trained_together(photos, tmp_path_factory):
    """What two processes that nobody disturbs train, and what they print."""
    out_dir = tmp_path_factory.mktemp("together")
    done = run(two_processes("colorize.py", *flags(photos, out_dir)), program="torchrun")
    assert done.returncode == 0, done.stderr
    return done.stdout, torch.load(out_dir / "unet.pth", weights_only=True)


def test_only_the_main_process_prints(trained_together):
    printed, _ = trained_together
    assert re.findall(r"^epoch (\d)/3: loss", printed, re.MULTILINE) == ["1", "2", "3"]
    assert printed.count("Saved ") == printed.count("Reading the photos") == 1


def test_the_speed_is_that_of_all_processes_together(monkeypatch, capsys):
    ticks = iter(range(100))
    monkeypatch.setattr(colorize.time, "perf_counter", lambda: next(ticks))
    pixels = torch.zeros(8, 16, 16, 3, dtype=torch.uint8)
    net = UNet()
    for processes in (1, 2):
        batches = PhotoLoader(pixels, range(8), 4, shuffle=True, world_size=processes)
        colorize.train(net, torch.optim.Adam(net.parameters()), batches, epochs=1)
    assert capsys.readouterr().out.count("8.0 images/s") == 2


def test_two_processes_train_about_the_same_net_as_one(photos, tmp_path, trained_together):
    assert colorize.main([str(flag) for flag in flags(photos, tmp_path)]) == 0
    alone = torch.load(tmp_path / "unet.pth", weights_only=True)
    _, together = trained_together
    difference = sum(float((alone[k] - together[k]).square().sum()) for k in alone) ** 0.5
    size = sum(float(weights.square().sum()) for weights in alone.values()) ** 0.5
    assert difference < 0.02 * size


def test_after_a_process_dies_all_resume_from_the_last_checkpoint(
    photos, tmp_path, trained_together
):
    program = tmp_path / "mortal.py"
    program.write_text(MORTAL)
    words = ["--max_restarts=1", program, tmp_path / "died", *flags(photos, tmp_path / "out")]
    done = run(two_processes(*words), program="torchrun")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    assert "Going on from" in done.stdout
    # steps 5 to 7 were lost with the process, and taken again
    assert re.findall(r"^epoch (\d)/3: loss", done.stdout, re.MULTILINE) == ["1", "2", "3"]
    again = torch.load(tmp_path / "out/unet.pth", weights_only=True)
    _, together = trained_together
    assert all(torch.equal(again[name], together[name]) for name in together)


def test_a_signal_stops_all_processes_together(photos, tmp_path):
    words = two_processes("colorize.py", *flags(photos, tmp_path))
    words[-1] = "100000"
    with Program(words, program="torchrun") as launcher:
        output = ""
        for line in launcher.stdout:
            output += line
            if line.startswith("epoch 1/100000: loss"):
                launcher.send_signal(signal.SIGTERM)
        assert launcher.wait() != 0
    assert "Stopped by SIGTERM" in output
    found = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert found["progress"]["steps"] >= 4


@pytest.mark.parametrize("failing", ["--resume", "save"])
def test_a_failure_in_the_main_process_alone_ends_all(photos, tmp_path, failing):
    argv = flags(photos, tmp_path)
    if failing == "--resume":
        printed, argv = "there is no file", [*argv, "--resume", tmp_path / "nowhere.pt"]
    else:  # what a full disk does to it
        printed = "Is a directory"
        (tmp_path / "unet.pth").mkdir()
    done = run(two_processes("colorize.py", *argv), program="torchrun")
    assert done.returncode == 1
    assert printed in done.stderr
