import torch
from fast_unet import FastUNet
from init_weights import init_as_gray_copy
from unet import DownSampleBlock, UNet, UpSampleBlock, double_conv

from tests.workload.programs import run


def test_running_the_file_checks_the_shapes():
    done = run(["-W", "error", "unet.py"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "Shapes OK\n", "")


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


def test_the_fast_net_is_the_same_function_with_the_same_gradients():
    torch.manual_seed(0)
    net = UNet().double()
    fast = FastUNet().double()
    fast.load_state_dict(net.state_dict())
    assert list(fast.state_dict()) == list(net.state_dict())
    x = torch.rand(2, 1, 16, 24, dtype=torch.float64)
    out, fast_out = net(x), fast(x)
    assert torch.allclose(out, fast_out, atol=1e-12)
    out.square().sum().backward()
    fast_out.square().sum().backward()
    for one, other in zip(net.parameters(), fast.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-10)


def test_the_net_starts_as_a_gray_copy():
    torch.manual_seed(0)
    net = UNet()
    init_as_gray_copy(net)
    gray = torch.rand(4, 1, 32, 32) * 2 - 1
    out = net(gray)
    copy = (gray * 0.5 + 0.5).expand(-1, 3, -1, -1)
    assert (out - copy).std() < 0.2
    net.last_conv.weight.data[:, 1:] = 0  # without the other channels it is one exactly
    assert torch.allclose(net(gray), copy, atol=1e-6)


def test_signals_reach_the_deepest_layer_and_come_back():
    torch.manual_seed(0)
    net = UNet()
    init_as_gray_copy(net)
    loss = (net(torch.rand(2, 1, 32, 32) * 2 - 1) - torch.rand(2, 3, 32, 32)).square().mean()
    loss.backward()
    norms = [float(weights.grad.norm()) for weights in net.parameters()]
    assert min(norms) > 1e-4
