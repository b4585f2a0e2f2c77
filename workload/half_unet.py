"""A U-Net that finds the colours at half the size: a quarter of the work, and a wider view.

The eye sees chroma less sharply than brightness (JPEG and television rely on it), and the
brightness is given. So the net of unet.py gets the photo with every 2×2 pixels folded into one
position of four channels, returns two chroma values for each position, and these are upsampled.
Two more channels hold the position in the picture: clouds are at the top, and water at the bottom.
"""

import torch
import torch.nn.functional as F
from colours import from_chroma
from fast_unet import FastUNet
from torch import nn
from unet import DownSampleBlock

FOLD = 2  # pixels in each direction that become one position


class HalfUNet(FastUNet):
    """(N, 1, H, W) gray in [-1, 1] -> (N, 3, H, W) colour whose luma is the gray's.

    H and W must be multiples of 16. Its weights are not the UNet's: the first layer reads more
    channels, the last one returns two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.downsample_block_1 = DownSampleBlock(FOLD**2 + 2, 32)
        self.last_conv = nn.Conv2d(32, 2, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        folded = F.pixel_unshuffle(x, FOLD)
        chroma = super().forward(torch.cat([folded, position_channels(folded)], dim=1))
        chroma = F.interpolate(chroma, scale_factor=FOLD, mode="bilinear", align_corners=False)
        return from_chroma(chroma.float(), x)


def position_channels(pictures: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N, 2, H, W): the height, -1 (top) to 1, and the distance from the middle.

    Left and right are the same: mirrored photos have the same colours.
    """
    count, _, height, width = pictures.shape
    low = torch.linspace(-1, 1, height, device=pictures.device).view(1, 1, height, 1)
    aside = torch.linspace(-1, 1, width, device=pictures.device).abs().view(1, 1, 1, width)
    shape = (count, 1, height, width)
    return torch.cat([low.expand(shape), aside.expand(shape)], dim=1).to(pictures)
