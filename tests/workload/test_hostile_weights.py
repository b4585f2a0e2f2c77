"""Files of weights that were made to do harm: each is refused in one sentence."""

import copy
import io
import json
import math
import os
import pickle
import random
import re
import zipfile

import colorize
import pytest
import torch
from checkpoint import (
    CheckpointError,
    TrainState,
    atomic_write,
    load_archive,
    read_bytes,
    save_checkpoint,
    save_weights,
)
from distributed import DistributedContext
from fast_unet import FastUNet
from gallery import render_curves
from models import load_net
from options import parse_arguments
from resume import Checkpoint, adopt, check_settings, find_checkpoint, restore
from torch import nn

FUZZED = 1500
SETTINGS = {"photos": "8 photos", "epochs": 3, "lr": 1e-3, "model": "unet"}
ALONE = DistributedContext(0, 1, torch.device("cpu"))
CONFIG = parse_arguments([], "", cuda=False)  # its sizes are those of the checkpoint


def trained():
    """A small net, and its optimizer after a step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 1))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.rand(1, 1, 4, 4)).square().mean().backward()
    optimizer.step()
    return net, optimizer, torch.amp.GradScaler("cpu", enabled=True)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """What a checkpoint holds."""
    path = tmp_path_factory.mktemp("good") / "checkpoint.pt"
    progress = TrainState(1, 2, 6, 4, 0.5, "runs/UNet/2026-01-02_03-04-05", [{"loss": 0.5}])
    save_checkpoint(path, SETTINGS, progress, *trained())
    return load_archive(read_bytes(path), path)


def resumed(found, folder):
    """Where a training would go on; raises CheckpointError."""
    torch.save(found, folder / "checkpoint.pt")
    checkpoint = find_checkpoint(folder, "auto", ALONE)
    adopt(CONFIG, checkpoint)
    check_settings(checkpoint, SETTINGS)
    return restore(checkpoint, *trained())


def refused(error):
    """True for one line without anything that a terminal would obey."""
    return str(error.value).isprintable() and len(str(error.value)) < 500


def test_a_good_one_is_taken(good, tmp_path):
    assert resumed(good, tmp_path).steps == 6


TERABYTES = torch.zeros(1).expand(1 << 40)
ODD = [
    None, True, -1, 1 << 70, 0.5, math.nan, math.inf, "", "\x1b]0;x\x07", b"bytes", [], {}, (1,),
    {1}, {"a": {"b": None}}, [[]], 1j, torch.zeros(0), torch.tensor(math.nan),
    torch.zeros(2, 1, 3, 3).int(), torch.zeros(3, 3).to_sparse(),
    torch.zeros(2, dtype=torch.complex64), TERABYTES,
]  # fmt: skip


def places(value, path=()):
    """The way to each part of a checkpoint."""
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))


def test_odd_values_and_missing_keys_everywhere_are_refused_or_do_not_matter(good, tmp_path):
    tried = taken = 0
    net, optimizer, scaler = trained()
    for path in list(places(good))[1:]:
        *way, last = path
        for odd in [*ODD, KeyError]:
            found = copy.deepcopy(good)
            part = found
            for key in way:
                part = part[key]
            if odd is KeyError:
                del part[last]
            else:
                part[last] = odd
            tried += 1
            try:
                # all that a training does before its first step
                if path == ("settings",) or path[0] == "settings":
                    progress = resumed(found, tmp_path)
                else:
                    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", found, SETTINGS)
                    progress = restore(checkpoint, net, optimizer, scaler)
            except CheckpointError as error:
                assert str(error).isprintable() and len(str(error)) < 500
                continue
            taken += 1
            assert type(progress.steps) is int and progress.steps >= 0
            assert re.fullmatch(r"(runs/UNet/[\w-]+)?", progress.run)
            json.dumps(progress.history)
            for moment in optimizer.state_dict()["state"].values():
                assert all(value.isfinite().all() for value in moment.values())
            assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    assert tried > 1000 and taken < tried / 2


@pytest.mark.parametrize("run", ["../../x", "/tmp/x", "runs/UNet/../../../x", "runs/UNet/a\n", "x"])
def test_the_folder_of_a_run_leads_nowhere_else(good, tmp_path, run):
    good = {**good, "progress": {**good["progress"], "run": run}}
    with pytest.raises(CheckpointError, match="name of its run") as error:
        resumed(good, tmp_path)
    assert refused(error)


def test_damaged_files_are_one_error(good, tmp_path):
    buffer = io.BytesIO()
    torch.save(good, buffer)
    whole, dice = buffer.getvalue(), random.Random(0)
    taken = 0
    for _ in range(FUZZED):
        content = bytearray(whole)
        for _ in range(dice.randrange(1, 6)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        if dice.random() < 0.2:
            del content[dice.randrange(len(content)) :]
        try:
            restore(Checkpoint.parse(bytes(content), tmp_path / "file.pt"), *trained())
            taken += 1
        except CheckpointError as error:
            assert str(error).isprintable()
    assert 0 < taken < FUZZED


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def zipped(compression=zipfile.ZIP_STORED, **members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name.replace('_', '/')}", content)
    return buffer.getvalue()


# A tensor that says to have 2**60 numbers, as torch.save would write it.
CLAIM = (
    b"\x80\x02}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
    b"X\1\0\0\0" + b"0X\3\0\0\0cpu" + b"\x8a\x08" + (1 << 60).to_bytes(8, "little") + b"tQK\0"
    b"\x8a\x08"
    + (1 << 60).to_bytes(8, "little")
    + b"\x85K\1\x85\x89ccollections\nOrderedDict\n)RtRs."
)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"weights": Bomb()}),
        zipped(data=pickle.dumps({"weights": Bomb()})),
        zipped(**{"data.pkl": pickle.dumps({"weights": Bomb()}, 2), "version": b"3\n"}),
        zipped(**{"data.pkl": CLAIM, "data_0": bytes(4), "version": b"3\n"}),
        zipped(zipfile.ZIP_DEFLATED, **{"data.pkl": CLAIM, "data_0": bytes(1 << 24)}),
        zipped(
            **{"data.pkl": b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b".", "version": b"3"}
        ),
        zipped(**{"constants.pkl": b"\x80\x02N.", "data.pkl": b"\x80\x02N.", "version": b"3"}),
        b"",
        b"\x1b]0;x\x07",
    ],
)
def test_nothing_that_a_file_asks_for_is_run_or_allotted(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unet.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a file of weights") as error:
        load_net(tmp_path / "unet.pth")
    assert refused(error)
    assert not (tmp_path / "exploded").exists()


def test_weights_that_are_not_of_finite_numbers_are_refused(tmp_path):
    for odd in (math.nan, math.inf, "int", "terabytes"):
        weights = FastUNet().state_dict()
        if odd == "int":
            weights["last_conv.bias"] = torch.zeros(3, dtype=torch.int64)
        elif odd == "terabytes":
            weights["last_conv.bias"] = TERABYTES
        else:
            weights["last_conv.bias"][1] = odd
        torch.save(weights, tmp_path / "unet.pth")
        with pytest.raises(CheckpointError) as error:
            load_net(tmp_path / "unet.pth")
        assert refused(error)


def test_a_net_in_half_precision_is_taken(tmp_path):
    torch.save(FastUNet().half().state_dict(), tmp_path / "unet.pth")
    assert load_net(tmp_path / "unet.pth")


def test_what_is_no_plain_file_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.pth")
    with (tmp_path / "sparse.pth").open("wb") as file:
        file.truncate(1 << 40)
    for name, why in (("pipe", "plain file"), ("sparse", "at most 1074 MB")):
        path = str(tmp_path / f"{name}.pth")
        assert colorize.main(["--test_net", path, "--images", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert path in line and why in line


def test_a_file_is_not_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f".unet.pth.{os.getpid()}.tmp").symlink_to("mine")
    save_weights(nn.Linear(1, 1), tmp_path / "unet.pth")
    atomic_write(tmp_path / "other", b"content")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "history",
    [
        b"{}",
        b"[1]",
        b"[" * 100_000,
        b'[{"loss": 1' + b"0" * 400 + b'}, {"loss": 1}]',
        b'[{"loss": NaN}, {"loss": Infinity}]',
        b'[{"loss": "<script>"}, {"loss": 1}]',
        b'[{"loss": 1}, {"loss": 1}' + b" " * (1 << 24) + b"]",
        b"\xff\xfe",
    ],
)
def test_a_history_of_an_odd_shape_draws_nothing(tmp_path, history):
    (tmp_path / "history.json").write_bytes(history)
    assert render_curves(tmp_path / "history.json") == ""
