"""Measuring and showing colours: PSNR, TensorBoard's image grids and the graph, sample.png."""

import copy
import warnings
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

TILE = 192  # pixels: the side of a picture in sample.png
MARGIN = 8
CAPTION = 24


def psnr(pictures: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each picture in [0, 1], at most 60 dB (8 bits)."""
    mse = (pictures.clamp(0, 1) - truth).square().flatten(1).mean(dim=1)
    return -10 * mse.clamp_min(1e-6).log10()


def gray_copy(gray: torch.Tensor) -> torch.Tensor:
    """The net's input back as a picture: [-1, 1] -> [0, 1], one channel -> three."""
    return (gray * 0.5 + 0.5).expand(-1, 3, -1, -1)


def write_graph(writer: SummaryWriter, net: nn.Module, image_size: int) -> None:
    """Add the net's graph, traced on a copy: tracing must not touch the net that is trained."""
    traced = copy.deepcopy(net).cpu().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's advice to use another tracer
        writer.add_graph(traced, torch.zeros(1, 1, image_size, image_size))


def write_images(
    writer: SummaryWriter,
    gray: torch.Tensor,
    predicted: torch.Tensor,
    truth: torch.Tensor,
    step: int,
) -> None:
    """Add one grid each of the input, the prediction and the truth, visible at once."""
    writer.add_image("Input", make_grid(gray_copy(gray), nrow=4), step)
    writer.add_image("Predicted", make_grid(predicted.nan_to_num().clamp(0, 1), nrow=4), step)
    writer.add_image("Ground truth", make_grid(truth, nrow=4), step)
    writer.flush()


def draw_sample(
    gray: torch.Tensor, predicted: torch.Tensor, truth: torch.Tensor, names: Sequence[str]
) -> Image.Image:
    """One row per photo: gray | predicted | truth, with the PSNR of the first two."""
    grays = gray_copy(gray)
    columns = {"gray": grays, "predicted": predicted.clamp(0, 1), "truth": truth}
    row_height = CAPTION + TILE
    sheet = Image.new(
        "RGB",
        (MARGIN + len(columns) * (TILE + MARGIN), CAPTION + len(names) * row_height + MARGIN),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for column, (title, pictures) in enumerate(columns.items()):
        left = MARGIN + column * (TILE + MARGIN)
        draw.text((left, 4), title, "black", font)
        for row, picture in enumerate(pictures):
            tile = to_pil_image(picture).resize((TILE, TILE), Image.Resampling.BICUBIC)
            sheet.paste(tile, (left, CAPTION + row * row_height + CAPTION))
    scores = zip(names, psnr(predicted, truth).tolist(), psnr(grays, truth).tolist(), strict=True)
    for row, (name, ours, baseline) in enumerate(scores):
        caption = f"{name}: PSNR {ours:.1f} dB, gray copy {baseline:.1f} dB"
        draw.text((MARGIN, CAPTION + row * row_height + 4), caption, "black", font)
    return sheet
