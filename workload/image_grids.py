"""Pictures for people: TensorBoard's image grids and graph, and sample.png."""

import warnings
from collections.abc import Sequence

import torch
from colours import gray_copy
from metrics import psnr
from PIL import Image, ImageDraw, ImageFont
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid
from unet import UNet

TILE = 192  # pixels: the side of a picture in sample.png
MARGIN = 8
CAPTION = 24


def write_graph(writer: SummaryWriter, image_size: int, net: type[UNet] = UNet) -> None:
    """Log the graph of a fresh net: the one that is trained is not touched."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # the tracer's advice to use another tracer
        writer.add_graph(net().eval(), torch.zeros(1, 1, image_size, image_size))


def write_images(
    writer: SummaryWriter,
    gray: torch.Tensor,
    predicted: torch.Tensor,
    truth: torch.Tensor,
    step: int,
) -> None:
    """Log a grid each of the input (N, 1, H, W), the prediction and the truth (N, 3, H, W)."""
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
