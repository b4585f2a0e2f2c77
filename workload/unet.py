"""A small U-Net that turns a gray photo into a colour one.

    gray (1) ─ down 1 (32) ──────────── skip ──────────── up 1 (32) ─ 1×1 ─ colour (3)
                 └ down 2 (64) ──────── skip ──────── up 2 (64) ┘
                     └ down 3 (128) ─── skip ─── up 3 (128) ┘
                         └────────── middle (256) ──────────┘

Each step down halves the sides of the picture, each step up doubles them again, and the skips
carry across the fine detail that the pooling would lose. Sides must be multiples of 8.
"""

import torch
from torch import nn


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 3×3 convolutions, each followed by a ReLU; height and width stay as they are."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
    )


class DownSampleBlock(nn.Module):
    """(N, in, H, W) -> (N, out, H/2, W/2), and the full-size (N, out, H, W) for the skip."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_block = double_conv(in_channels, out_channels)
        self.maxpool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x_skip = self.conv_block(x)
        out = self.maxpool(x_skip)
        return out, x_skip


class UpSampleBlock(nn.Module):
    """(N, in - skip, H, W) and the skip (N, skip, 2H, 2W) -> (N, out, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_block = double_conv(in_channels, out_channels)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x: torch.Tensor, x_skip: torch.Tensor) -> torch.Tensor:
        x = self.upsample(x)
        x = torch.cat([x, x_skip], dim=1)
        return self.conv_block(x)


class UNet(nn.Module):
    """(N, 1, H, W) gray in [-1, 1] -> (N, 3, H, W) colour, trained towards [0, 1] (not clamped)."""

    up_block = UpSampleBlock  # fast_unet.py puts its own here

    def __init__(self) -> None:
        super().__init__()
        self.downsample_block_1 = DownSampleBlock(1, 32)
        self.downsample_block_2 = DownSampleBlock(32, 64)
        self.downsample_block_3 = DownSampleBlock(64, 128)
        self.middle_conv_block = double_conv(128, 256)
        # An up block reads what comes from below and the skip of the same height: 256 + 128 = 384.
        self.upsample_block_3 = self.up_block(384, 128)
        self.upsample_block_2 = self.up_block(192, 64)
        self.upsample_block_1 = self.up_block(96, 32)
        self.last_conv = nn.Conv2d(32, 3, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, x_skip1 = self.downsample_block_1(x)
        x, x_skip2 = self.downsample_block_2(x)
        x, x_skip3 = self.downsample_block_3(x)
        x = self.middle_conv_block(x)
        x = self.upsample_block_3(x, x_skip3)
        x = self.upsample_block_2(x, x_skip2)
        x = self.upsample_block_1(x, x_skip1)
        return self.last_conv(x)


if __name__ == "__main__":
    with torch.inference_mode():
        out = UNet()(torch.rand(16, 1, 224, 224))
    if out.shape != (16, 3, 224, 224):
        raise SystemExit(f"expected (16, 3, 224, 224), got {tuple(out.shape)}")
    print("Shapes OK")
