"""From bytes to what the net reads and back: gray, colour, and colour with the photo's own luma.

All of it runs where the photos are, on the GPU if they are there. The arithmetic is in whole
numbers and the same as Pillow's, so that the net sees, to the last bit, what the course's loader
makes: float arithmetic would differ by up to one gray level.
"""

import torch

# ITU-R 601-2 luma: Pillow's weights in 65536ths, and their sum is 65536.
RED, GREEN, BLUE = 19595, 38470, 7471


def to_batch(photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Photos (N, H, W, 3) uint8 -> gray (N, 1, H, W) in [-1, 1], colour (N, 3, H, W) in [0, 1].

    Both are in channels_last, the order of the bytes: nothing is reordered.
    """
    red, green, blue = photos.to(torch.int32).unbind(dim=3)
    gray = (red * RED + green * GREEN + blue * BLUE + 0x8000) >> 16
    gray = gray.float().div_(255).sub_(0.5).div_(0.5)
    colour = photos.permute(0, 3, 1, 2).float().div_(255)
    return gray.unsqueeze(1).contiguous(memory_format=torch.channels_last), colour


def luma(colour: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) -> (N, 1, H, W): the brightness of each pixel."""
    red, green, blue = colour.split(1, dim=1)
    return (red * RED + green * GREEN + blue * BLUE) / 65536


def gray_copy(gray: torch.Tensor) -> torch.Tensor:
    """The net's input back as a picture: [-1, 1] -> [0, 1], one channel -> three."""
    return (gray * 0.5 + 0.5).expand(-1, 3, -1, -1)


def from_chroma(chroma: torch.Tensor, gray: torch.Tensor) -> torch.Tensor:
    """Chroma (N, 2, H, W), how much redder and bluer than gray -> colour with the luma of `gray`.

    What red and blue add to the luma, green takes away.
    """
    redder, bluer = chroma.split(1, dim=1)
    greener = (redder * RED + bluer * BLUE) / -GREEN
    return (gray * 0.5 + 0.5) + torch.cat([redder, greener, bluer], dim=1)


def keep_luma(colour: torch.Tensor, gray: torch.Tensor) -> torch.Tensor:
    """Shift every pixel's colour until its luma is that of the gray photo.

    The photo's brightness is known, so the net need not predict it: only its chroma is used. This
    is a projection: where the brightness is right already, nothing changes.
    """
    return colour + (gray * 0.5 + 0.5 - luma(colour))
