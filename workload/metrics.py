"""Metrics of coloured pictures: error in dB, structural similarity, and colourfulness.

All functions take pictures (N, 3, H, W) in [0, 1], clamped first, and return N numbers.
"""

import torch
import torch.nn.functional as F


def psnr(pictures: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each picture, at most 60 dB (8 bits)."""
    mse = (pictures.clamp(0, 1) - truth).square().flatten(1).mean(dim=1)
    return -10 * mse.clamp_min(1e-6).log10()


def ssim(pictures: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Structural similarity (Wang et al. 2004), mean over colours: 1 is the same picture.

    The window is their Gaussian of 11 pixels and sigma 1.5; pictures smaller than that get the
    largest odd window that fits.
    """
    size = min(11, *(side - (side + 1) % 2 for side in truth.shape[2:]))
    offsets = torch.arange(size, device=truth.device) - size // 2
    bell = torch.exp(-offsets.float().square() / (2 * 1.5**2))
    bell = bell / bell.sum()

    def blur(x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        rows = bell.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        x = F.conv2d(x, rows, groups=channels)
        return F.conv2d(x, rows.transpose(2, 3), groups=channels)

    x, y = pictures.clamp(0, 1).float(), truth.float()
    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x**2
    variance_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    same_light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    same_structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (same_light * same_structure).flatten(1).mean(dim=1)


def colourfulness(pictures: torch.Tensor) -> torch.Tensor:
    """Hasler and Süsstrunk's M3 (2003), on 8-bit pictures' scale: gray is 0, vivid about 80."""
    red, green, blue = (pictures.clamp(0, 1) * 255).flatten(2).unbind(dim=1)
    red_green = red - green
    yellow_blue = (red + green) / 2 - blue

    def together(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.square() + b.square()).sqrt()

    spread = together(red_green.std(1, correction=0), yellow_blue.std(1, correction=0))
    return spread + 0.3 * together(red_green.mean(1), yellow_blue.mean(1))
