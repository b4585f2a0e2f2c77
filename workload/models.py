"""The nets that --model offers, and which of them a file of weights belongs to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from checkpoint import extract_weights, load_archive, load_weights, read_bytes
from fast_unet import FastUNet
from half_unet import HalfUNet
from init_weights import init_as_gray_copy, init_without_chroma
from torch import nn
from unet import UNet


@dataclass(frozen=True)
class Model:
    """A net, its initial weights, and what it asks of pictures and memory."""

    net_class: type[UNet]  # as it is computed
    graph_class: type[UNet]  # as TensorBoard draws it
    init: Callable[[Any], None]
    side_multiple: int  # height and width must be multiples of it
    memory: float  # that a training step keeps per photo, relative to the UNet


MODELS = {
    "unet": Model(FastUNet, UNet, init_as_gray_copy, 8, 1.0),
    "half": Model(HalfUNet, HalfUNet, init_without_chroma, 16, 0.3),
}
# A picture with such sides suits every net.
SIDE_MULTIPLE = max(model.side_multiple for model in MODELS.values())


def create_net(name: str) -> nn.Module:
    """Create a net with its initial weights, which depend on PyTorch's seed."""
    model = MODELS[name]
    net = model.net_class()
    model.init(net)
    return net


def load_net(path: Path) -> nn.Module:
    """Load the net that a file's weights belong to: unet.pth or a checkpoint.

    Raises CheckpointError if it is not a file of such a net, FileNotFoundError if there is none.
    """
    weights = extract_weights(load_archive(read_bytes(path), path), path)
    net = MODELS[find_model(weights) or "unet"].net_class()
    load_weights(net, weights, path)
    return net


def find_model(weights: Mapping[str, Any]) -> str | None:
    """The key in MODELS of the net that a state dict belongs to; None if it is another net's."""
    shapes = get_shapes(weights)
    return next((name for name in MODELS if model_shapes(name) == shapes), None)


@cache
def model_shapes(name: str) -> dict[str, Any]:
    """The shapes of a model's weights by their names."""
    with torch.device("meta"):  # needs neither memory nor random numbers
        return get_shapes(MODELS[name].net_class().state_dict())


def get_side_multiple(net: nn.Module) -> int:
    """What the sides of a picture must be multiples of for this net, in pixels."""
    return next(model.side_multiple for model in MODELS.values() if type(net) is model.net_class)


def get_shapes(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The shapes of a state dict's tensors by their names."""
    return {name: getattr(value, "shape", None) for name, value in weights.items()}
