import subprocess
import sys

import torch
from conftest import WORKLOAD
from unet import DownSampleBlock, UNet, UpSampleBlock, double_conv


def test_running_the_file_checks_the_shapes():
    done = subprocess.run(
        [sys.executable, "-W", "error", "unet.py"],
        cwd=WORKLOAD,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "Shapes OK\n"


def test_the_net_has_the_courses_keys_and_size():
    state = UNet().state_dict()
    blocks = [f"downsample_block_{i}.conv_block" for i in (1, 2, 3)]
    blocks += ["middle_conv_block"] + [f"upsample_block_{i}.conv_block" for i in (1, 2, 3)]
    keys = {
        f"{block}.{layer}.{kind}"
        for block in blocks
        for layer in (0, 2)
        for kind in ("weight", "bias")
    }
    assert set(state) == keys | {"last_conv.weight", "last_conv.bias"}
    assert sum(value.numel() for value in state.values()) == 1_946_371
    inputs = {i: state[f"upsample_block_{i}.conv_block.0.weight"].shape[1] for i in (1, 2, 3)}
    assert inputs == {3: 384, 2: 192, 1: 96}


def test_the_blocks_halve_and_double_the_sides():
    x = torch.rand(2, 8, 16, 24)
    assert double_conv(8, 4)(x).shape == (2, 4, 16, 24)
    out, x_skip = DownSampleBlock(8, 4)(x)
    assert (out.shape, x_skip.shape) == ((2, 4, 8, 12), (2, 4, 16, 24))
    assert UpSampleBlock(12, 5)(torch.rand(2, 8, 8, 12), x_skip).shape == (2, 5, 16, 24)


def test_any_sides_that_are_multiples_of_8_will_do():
    assert UNet()(torch.rand(1, 1, 8, 40)).shape == (1, 3, 8, 40)
