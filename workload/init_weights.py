"""Initial weights: the net starts as a gray copy, and with signals that reach every layer.

PyTorch's default initial weights shrink a signal by more than half at each convolution followed by
a ReLU, so that the output of a new net is almost constant, and it takes many epochs until it has
learnt to copy the brightness that it is given. Neither has to be learnt. Keys and shapes stay the
course's.
"""

import torch
from torch import nn
from unet import UNet

OTHER_CHANNELS = 0.1  # scale of the last layer's other channels, relative to the gray one


@torch.no_grad()
def init_as_gray_copy(net: UNet) -> None:
    """Initialise the net so that it returns about its input, as gray in [0, 1].

    All weights are drawn as by He et al. (2015). Then channel 0 is made to carry the gray
    picture through the uppermost level: down block 1, the skip, up block 1, the last layer.
    """
    init_he(net)
    into, through = net.downsample_block_1.conv_block[0], net.downsample_block_1.conv_block[2]
    back, out = net.upsample_block_1.conv_block[0], net.upsample_block_1.conv_block[2]
    skip = back.in_channels - through.out_channels  # the skip's first channel, after those below
    for layer, channel in ((into, 0), (through, 0), (back, skip), (out, 0)):
        layer.weight[0] = 0
        layer.weight[0, channel, 1, 1] = 1
    into.weight[0] *= 0.5  # from [-1, 1] to [0, 1], which a ReLU lets pass
    into.bias[0] = 0.5
    net.last_conv.weight *= OTHER_CHANNELS
    net.last_conv.weight[:, 0] = 1


@torch.no_grad()
def init_without_chroma(net: UNet) -> None:
    """Initialise a net that returns chroma (half_unet.py) so that it starts with none."""
    init_he(net)
    net.last_conv.weight.zero_()


def init_he(net: nn.Module) -> None:
    """Draw weights as He et al. (2015): a signal keeps its variance from layer to layer."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
