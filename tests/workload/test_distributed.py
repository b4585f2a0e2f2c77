import os
import re
import signal
import subprocess
import sys

import colorize
import pytest
import torch
from conftest import WORKLOAD
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

def step(team):
    torch.manual_seed(1)  # finding each other may draw numbers
    net = UNet()
    shard = {"rank": team.rank, "world_size": team.world_size}
    batches = PhotoLoader(pixels, range(5), 5, shuffle=True, **shard)
    ((gray, truth, weight),) = batches
    shared = team.parallelize(net)
    (F.mse_loss(shared(gray), truth) * weight).backward()
    gradients = {name: weights.grad for name, weights in net.named_parameters()}
    torch.save(gradients, f"{sys.argv[1]}/{team.world_size}-{team.rank}.pt")

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
with init_distributed() as team:
    step(team)
    assert team.any(False) is False
    assert team.any(team.rank == team.world_size - 1) is True
    assert team.broadcast_from_main(b"abc" if team.is_main else None) == b"abc"
    assert team.broadcast_from_main(b"" if team.is_main else None) == b""
    assert team.broadcast_from_main(None) is None
# a thread of the team's that outlives it may abort the process at its end
assert threads() == before, threads()
"""

# Kills the second process at a step of the first life of the team.
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


def torchrun(*arguments, processes=2):
    """A team on this machine; its rendezvous takes a free port of its own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc_per_node={processes}", *map(str, arguments)]


def ran(argv):
    return subprocess.run(
        argv, cwd=WORKLOAD, capture_output=True, text=True, check=False, env=environment()
    )


def team(*arguments):
    """The words after `torchrun`, here of one whose processes are forked."""
    return ["--standalone", "--nproc_per_node=2", *arguments]


def environment():
    return {**os.environ, "PYTHONPATH": str(WORKLOAD)}


def flags(photos, out_dir):
    small = ["--batch_size", "4", "--image_size", "16", "--train_samples", "16", "--epochs", "3"]
    return ["--data_path", photos, "--out_dir", out_dir, *small]


def test_the_gradients_of_two_processes_are_those_of_one(tmp_path):
    program = tmp_path / "one_step.py"
    program.write_text(ONE_STEP)
    alone = ran([sys.executable, str(program), str(tmp_path)])
    assert alone.returncode == 0, alone.stderr
    both = ran(torchrun(program, tmp_path))
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
    done = run(team("colorize.py", *flags(photos, out_dir)), program="torchrun")
    assert done.returncode == 0, done.stderr
    return done.stdout, torch.load(out_dir / "unet.pth", weights_only=True)


def test_a_team_speaks_with_one_voice(trained_together):
    told, _ = trained_together
    assert re.findall(r"^epoch (\d)/3: loss", told, re.MULTILINE) == ["1", "2", "3"]
    assert told.count("Saved ") == told.count("Reading the photos") == 1


def test_the_speed_of_a_team_is_that_of_all_its_processes(monkeypatch, capsys):
    ticks = iter(range(100))
    monkeypatch.setattr(colorize.time, "perf_counter", lambda: next(ticks))
    pixels = torch.zeros(8, 16, 16, 3, dtype=torch.uint8)
    net = UNet()
    for processes in (1, 2):
        batches = PhotoLoader(pixels, range(8), 4, shuffle=True, world_size=processes)
        colorize.train(net, torch.optim.Adam(net.parameters()), batches, epochs=1)
    assert capsys.readouterr().out.count("8.0 images/s") == 2


def test_a_team_trains_about_the_same_net_as_one_process(photos, tmp_path, trained_together):
    assert colorize.main([str(flag) for flag in flags(photos, tmp_path)]) == 0
    alone = torch.load(tmp_path / "unet.pth", weights_only=True)
    _, together = trained_together
    difference = sum(float((alone[k] - together[k]).square().sum()) for k in alone) ** 0.5
    size = sum(float(weights.square().sum()) for weights in alone.values()) ** 0.5
    assert difference < 0.02 * size


def test_a_team_that_lost_a_process_goes_on_from_the_last_checkpoint(
    photos, tmp_path, trained_together
):
    program = tmp_path / "mortal.py"
    program.write_text(MORTAL)
    words = ["--max_restarts=1", program, tmp_path / "died", *flags(photos, tmp_path / "out")]
    done = run(team(*words), program="torchrun")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    assert "Going on from" in done.stdout
    # steps 5 to 7 were lost with the process, and taken again
    assert re.findall(r"^epoch (\d)/3: loss", done.stdout, re.MULTILINE) == ["1", "2", "3"]
    again = torch.load(tmp_path / "out/unet.pth", weights_only=True)
    _, together = trained_together
    assert all(torch.equal(again[name], together[name]) for name in together)


def test_a_team_stops_together_when_one_of_it_is_told_to(photos, tmp_path):
    words = team("colorize.py", *flags(photos, tmp_path))
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
def test_what_only_the_leader_sees_fail_ends_the_team(photos, tmp_path, failing):
    argv = flags(photos, tmp_path)
    if failing == "--resume":
        told, argv = "there is no file", [*argv, "--resume", tmp_path / "nowhere.pt"]
    else:  # what a full disk does to it
        told = "Is a directory"
        (tmp_path / "unet.pth").mkdir()
    done = run(team("colorize.py", *argv), program="torchrun")
    assert done.returncode == 1
    assert told in done.stderr
