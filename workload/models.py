"""The nets that --model offers, and which of them a file of weights belongs to."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checkpoint import fill, read, read_bytes, weights_of
from fast_unet import FastUNet
from half_unet import HalfUNet
from init_weights import start_from_gray, start_without_hues
from torch import nn
from unet import UNet


class Model(NamedTuple):
    """A net as it is computed and as it is drawn, its first weights, and which sides it takes."""

    computed: type[UNet]
    drawn: type[UNet]
    start: Callable[[Any], None]
    sides: int  # height and width are multiples of it
    memory: float  # that a training step keeps per photo, beside the UNet


MODELS = {
    "unet": Model(FastUNet, UNet, start_from_gray, 8, 1.0),
    "half": Model(HalfUNet, HalfUNet, start_without_hues, 16, 0.3),
}
# A picture with such sides suits every net.
SIDES = max(model.sides for model in MODELS.values())


def new_net(name: str) -> nn.Module:
    """A net with its first weights; the seed decides about them."""
    model = MODELS[name]
    net = model.computed()
    model.start(net)
    return net


def load_net(path: Path) -> nn.Module:
    """The net that a file's weights belong to, filled; of unet.pth or of a checkpoint.

    Raises CheckpointError if it is a file of no such net, FileNotFoundError if there is none.
    """
    weights = weights_of(read(read_bytes(path), path), path)
    nets = [model.computed() for model in MODELS.values()]
    net = next((net for net in nets if shapes(net.state_dict()) == shapes(weights)), nets[0])
    fill(net, weights, path)
    return net


def sides_of(net: nn.Module) -> int:
    """What a picture's sides must be multiples of for this net."""
    return next(model.sides for model in MODELS.values() if type(net) is model.computed)


def shapes(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a state dict's tensors by their names."""
    return {name: getattr(value, "shape", None) for name, value in weights.items()}
