"""The second net: what it promises beside the course's, and that files find their own net."""

import re

import colorize
import pytest
import torch
from checkpoint import save_weights
from colours import from_chroma, gray_copy, keep_luma, luma, to_batch
from half_unet import HalfUNet, position_channels
from models import MODELS, create_net, load_net

SMALL = ["--image_size", "16", "--train_samples", "8", "--batch_size", "4"]


def test_chroma_leaves_the_luma_alone():
    torch.manual_seed(0)
    gray, chroma = torch.rand(2, 1, 8, 8) * 2 - 1, torch.randn(2, 2, 8, 8)
    colour = from_chroma(chroma, gray)
    assert torch.allclose(luma(colour), gray * 0.5 + 0.5, atol=1e-6)
    assert torch.allclose(keep_luma(colour, gray), colour, atol=1e-6)
    redder, bluer = (colour - gray_copy(gray))[:, [0, 2]].unbind(1)
    assert torch.allclose(torch.stack([redder, bluer], 1), chroma, atol=1e-6)


def test_every_colour_has_its_chroma():
    photos = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    gray, truth = to_batch(photos)
    chroma = (truth - gray_copy(gray))[:, [0, 2]]
    # Pillow's gray is rounded to a whole level, and green alone carries that
    assert (from_chroma(chroma, gray) - truth).abs().max() < 1 / 255


def test_the_half_net_starts_as_a_gray_copy_and_learns_from_its_first_step():
    net = create_net("half")
    gray = torch.rand(2, 1, 32, 48) * 2 - 1
    out = net(gray)
    assert torch.allclose(out, gray_copy(gray), atol=1e-6)
    (out - torch.rand_like(out)).square().mean().backward()
    assert net.last_conv.weight.grad.abs().max() > 0


def test_position_channels_are_height_and_distance_from_the_middle():
    low, aside = position_channels(torch.zeros(1, 4, 3, 5))[0]
    assert low[:, 0].tolist() == [-1, 0, 1]
    assert torch.equal(low, low.flip(1))
    assert aside[0].tolist() == [1, 0.5, 0, 0.5, 1]


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_weights_finds_its_net(tmp_path, name):
    torch.manual_seed(0)
    net = create_net(name)
    save_weights(net, tmp_path / "unet.pth")
    found = load_net(tmp_path / "unet.pth")
    assert type(found) is type(net)
    gray = torch.rand(1, 1, 16, 32)
    assert torch.equal(found(gray), net(gray))


def test_the_half_net_is_trained_resumed_and_tried_like_the_other(photos, tmp_path, capsys):
    out_dir = tmp_path / "out"
    flags = ["--data_path", str(photos), "--out_dir", str(out_dir), *SMALL]
    assert colorize.main([*flags, "--model", "half", "--epochs", "2"]) == 0
    losses = re.findall(r"epoch \d/2: loss (\S+),", capsys.readouterr().out)
    assert float(losses[1]) < float(losses[0])
    assert isinstance(load_net(out_dir / "unet.pth"), HalfUNet)

    longer = [*flags, "--resume", str(out_dir / "trained.pt"), "--epochs", "3"]
    assert colorize.main(longer) == 2
    assert "model was half and is now unet" in capsys.readouterr().err
    assert colorize.main([*longer, "--model", "half"]) == 0
    assert "epoch 3/3" in capsys.readouterr().out

    tried = ["--test_net", str(out_dir / "unet.pth"), "--images", str(photos / "field")]
    assert colorize.main([*tried, "--out_dir", str(tmp_path / "page")]) == 0
    assert "Coloured 12 pictures" in capsys.readouterr().out
    assert colorize.main([*flags[:2], *tried[:2], "--image_size", "24"]) == 2
    assert "needs a multiple of 16" in capsys.readouterr().err


def test_a_checkpoint_from_before_there_was_a_choice_is_the_courses_nets(photos, tmp_path, capsys):
    flags = ["--data_path", str(photos), "--out_dir", str(tmp_path), *SMALL]
    assert colorize.main([*flags, "--epochs", "1"]) == 0
    found = torch.load(tmp_path / "trained.pt", weights_only=True)
    del found["settings"]["model"]
    torch.save(found, tmp_path / "old.pt")
    again = [*flags, "--resume", str(tmp_path / "old.pt"), "--epochs", "2"]
    assert colorize.main(again) == 0
    assert colorize.main([*again[:-1], "3", "--model", "half"]) == 2
    assert "model was unet and is now half" in capsys.readouterr().err
