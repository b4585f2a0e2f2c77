"""The nets that --model offers, and which of them a file of weights belongs to."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checkpoint import extract_weights, load_archive, load_weights, read_bytes
from fast_unet import FastUNet
from half_unet import HalfUNet
from init_weights import init_as_gray_copy, init_without_chroma
from torch import nn
from unet import UNet


class Model(NamedTuple):
    """A net as it is computed and as it is drawn, its first weights, and which sides it takes."""

    net_class: type[UNet]
    graph_class: type[UNet]
    init: Callable[[Any], None]
    side_multiple: int  # height and width are multiples of it
    memory: float  # that a training step keeps per photo, beside the UNet


MODELS = {
    "unet": Model(FastUNet, UNet, init_as_gray_copy, 8, 1.0),
    "half": Model(HalfUNet, HalfUNet, init_without_chroma, 16, 0.3),
}
# A picture with such sides suits every net.
SIDE_MULTIPLE = max(model.side_multiple for model in MODELS.values())


def create_net(name: str) -> nn.Module:
    """A net with its first weights; the seed decides about them."""
    model = MODELS[name]
    net = model.net_class()
    model.init(net)
    return net


def load_net(path: Path) -> nn.Module:
    """The net that a file's weights belong to, filled; of unet.pth or of a checkpoint.

    Raises CheckpointError if it is a file of no such net, FileNotFoundError if there is none.
    """
    weights = extract_weights(load_archive(read_bytes(path), path), path)
    nets = [model.net_class() for model in MODELS.values()]
    net = next(
        (net for net in nets if get_shapes(net.state_dict()) == get_shapes(weights)), nets[0]
    )
    load_weights(net, weights, path)
    return net


def get_side_multiple(net: nn.Module) -> int:
    """What a picture's sides must be multiples of for this net."""
    return next(model.side_multiple for model in MODELS.values() if type(net) is model.net_class)


def get_shapes(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a state dict's tensors by their names."""
    return {name: getattr(value, "shape", None) for name, value in weights.items()}
