"""Pictures coloured by a net: sample.png, and a page of any folder that opens offline."""

import base64
import hashlib
import html
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from checkpoint import atomic_write
from colours import gray_copy, keep_luma, to_batch
from data_utils import DataError
from dataset import PhotoDataset
from image_files import UnreadableImage, find_photos, load_rgb
from image_grids import draw_sample
from inference import colorize_batch
from metrics import colourfulness, psnr, ssim
from models import SIDE_MULTIPLE, load_net
from PIL import Image
from plain_files import UnusualFile, read_plain, to_printable
from torch import nn
from torchvision.transforms.functional import to_pil_image

WORK_SIDE = 512  # pixels: chroma is predicted at this size, luma keeps the photo's own
SHOWN_SIDE = 640  # pixels: the longer side of pictures in the page
MAX_SHOWN = 100  # pictures in the page; all are in the folder
BAND = 1 << 20  # pixels that are composed at once in a picture's own size
MAX_HISTORY_BYTES = 1 << 24
SAMPLE_ROWS = 5  # of sample.png
COLOURLESS = 1.0  # colourfulness below which a picture has no true colours to compare with


def save_sample(photos: PhotoDataset, weights: Path, dtype: torch.dtype | None) -> None:
    """Draw sample.png next to `weights`: a photo of each class, coloured with that very file."""
    net = load_net(weights)
    chosen = dict(list(photos.one_of_each_class().items())[:SAMPLE_ROWS])
    gray, truth = photos.batch(list(chosen.values()))
    picture = io.BytesIO()
    draw_sample(gray, colorize_batch(net, gray, dtype), truth, list(chosen)).save(picture, "PNG")
    atomic_write(weights.with_name("sample.png"), picture.getvalue())


@dataclass(frozen=True)
class ColouredPicture:
    """One coloured picture: its name, its scores if the truth was known, and how it looks."""

    name: str
    scores: str
    pictures: tuple[Image.Image, ...]  # gray, coloured and, if known, true


def colour_folder(
    net: nn.Module, images: Path, out_dir: Path, dtype: torch.dtype | None, history: Path
) -> str:
    """Colour every picture in `images`; returns a sentence about the result.

    Writes out_dir/colorized/… with the pictures' own names, and out_dir/colorized.html. Raises
    DataError if there is nothing to colour.
    """
    if not images.is_dir():
        raise DataError(f"--images: {images} is not a folder")
    made = os.path.realpath(out_dir / "colorized")  # by an earlier call
    files = sorted(
        Path(path)
        for path in find_photos(images)
        if not os.path.realpath(path).startswith(made + os.sep)
    )
    results: list[ColouredPicture] = []
    unreadable: list[str] = []
    for file in files:
        name = file.relative_to(images).as_posix()
        try:
            photo = load_rgb(file, upright=True)
        except UnreadableImage as error:
            unreadable.append(f"{to_printable(name)} ({error})")
            continue
        picture, result = colour_picture(net, photo, name, dtype)
        target = out_dir / "colorized" / name
        if target.suffix.lower() not in (".jpg", ".jpeg"):
            target = target.with_name(target.name + ".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, encode_jpeg(picture, 92))
        if len(results) < MAX_SHOWN:
            results.append(result)
    if not results:
        problem = "holds no pictures" if not files else "holds no picture that can be read"
        raise DataError(f"--images: {images} {problem}")
    page = out_dir / "colorized.html"
    atomic_write(page, render_page(results, history).encode(errors="replace"))
    count = len(files) - len(unreadable)
    done = f"Coloured {count} pictures into {out_dir / 'colorized'}: see {page}"
    if unreadable:
        more = ", ..." if len(unreadable) > 3 else ""
        done += f". Left out {len(unreadable)} unreadable: {', '.join(unreadable[:3])}{more}"
    return done


def colour_picture(
    net: nn.Module, photo: Image.Image, name: str, dtype: torch.dtype | None
) -> tuple[Image.Image, ColouredPicture]:
    """Colour a picture of any size; returns it, and what the page shows of it."""
    width, height = photo.size
    shrink = min(1, WORK_SIDE / max(width, height))
    small = photo.resize(
        [
            max(SIDE_MULTIPLE, round(side * shrink / SIDE_MULTIPLE) * SIDE_MULTIPLE)
            for side in photo.size
        ]
    )
    gray, truth = to_batch(torch.from_numpy(np.array(small)).unsqueeze(0))
    ours = colorize_batch(net, gray, dtype).cpu()
    scores = ""
    if float(colourfulness(truth)) > COLOURLESS:
        copy = gray_copy(gray)
        scores = (
            f"PSNR {float(psnr(ours, truth)):.1f} dB (gray {float(psnr(copy, truth)):.1f}),"
            f" SSIM {float(ssim(ours, truth)):.3f} ({float(ssim(copy, truth)):.3f}),"
            f" colourfulness {float(colourfulness(ours)):.0f}"
            f" (truth {float(colourfulness(truth)):.0f})"
        )
    # chroma is smooth, luma is not: enlarge the former, and take the latter from the photo
    picture = Image.new("RGB", photo.size)
    for top in range(0, height, rows := max(1, BAND // width)):
        part = photo.crop((0, top, width, min(top + rows, height)))
        sharp, _ = to_batch(torch.from_numpy(np.array(part)).unsqueeze(0))
        chroma = enlarge_rows(ours, width, height, range(top, top + part.height))
        picture.paste(to_pil_image(keep_luma(chroma, sharp).clamp(0, 1)[0]), (0, top))
    views = [photo.convert("L").convert("RGB"), picture.copy()] + ([photo] if scores else [])
    for view in views:
        view.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return picture, ColouredPicture(name, scores, tuple(views))


def enlarge_rows(small: torch.Tensor, width: int, height: int, rows: range) -> torch.Tensor:
    """Some rows of `small` (1, C, h, w) enlarged as by F.interpolate: (1, C, rows, width)."""
    most = small.shape[2] - 1
    place = ((torch.tensor(rows) + 0.5) * (small.shape[2] / height) - 0.5).clamp(0, most)
    above = place.floor().long()
    share = (place - above)[:, None]
    below = (above + 1).clamp(max=most)
    lines = small[:, :, above] * (1 - share) + small[:, :, below] * share
    return F.interpolate(lines, (len(rows), width), mode="bilinear", align_corners=False)


def encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    """Encode a picture as a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def render_page(results: Sequence[ColouredPicture], history: Path) -> str:
    """Render the page, with all pictures inside it."""
    figures = "\n".join(map(render_figure, results))
    page = PAGE.replace("{script}", SCRIPT).replace("{script_sum}", SCRIPT_SUM)
    return page.replace("{curve}", render_curves(history)).replace("{figures}", figures)


def render_figure(result: ColouredPicture) -> str:
    """Render a picture: gray and coloured under a slider, and then its true colours."""
    data = [
        "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(picture, 85)).decode()
        for picture in result.pictures
    ]
    name = html.escape(result.name)
    truth = f'<img src="{data[2]}" alt="{name}, true colours">' if data[2:] else ""
    return f"""<figure>
<div class="pair"><div class="slider"><img src="{data[1]}" alt="{name}, coloured">
<img class="before" src="{data[0]}" alt="{name}, gray"><input type="range" value="50"
aria-label="how much of {name} is gray"></div>{truth}</div>
<figcaption><b>{name}</b> {html.escape(result.scores)}</figcaption></figure>"""


def render_curves(history: Path) -> str:
    """Draw the loss and the validation PSNR over the epochs, as far as they are known."""
    try:
        epochs = json.loads(read_plain(history, MAX_HISTORY_BYTES))
        losses = [float(epoch["loss"]) for epoch in epochs]
        scores = [float(epoch["psnr"]) for epoch in epochs if "psnr" in epoch]
    except (
        UnusualFile, OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError,
    ):  # fmt: skip
        return ""
    if not all(map(math.isfinite, losses + scores)):
        return ""
    drawings = [
        render_curve("training loss", losses, "{:.4f}"),
        render_curve("validation PSNR, dB", scores, "{:.2f}"),
    ]
    return "".join(drawings)


def render_curve(title: str, values: Sequence[float], form: str) -> str:
    """Draw a curve with its first and last value; "" for fewer than two values."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    points = " ".join(
        f"{20 + 260 * i / (len(values) - 1):.1f},"
        f"{100 - 70 * (value - low) / ((high - low) or 1):.1f}"
        for i, value in enumerate(values)
    )
    first, last = form.format(values[0]), form.format(values[-1])
    return (
        f'<svg viewBox="0 0 300 130" role="img" aria-label="{title}: from {first} to {last}">'
        f'<text x="20" y="18">{title}: {first} → {last}</text><polyline points="{points}"/>'
        f'<text x="20" y="122">epoch 1</text>'
        f'<text x="280" y="122" text-anchor="end">epoch {len(values)}</text></svg>'
    )


SCRIPT = """
for (const range of document.querySelectorAll("input"))
  range.addEventListener("input", () =>
    range.parentElement.style.setProperty("--gray", range.value + "%"));
"""
SCRIPT_SUM = "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
# The page loads nothing and runs no script but its own, whatever the pictures' names hold.
PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Colour for gray photos</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
style-src 'unsafe-inline'; script-src '{script_sum}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem;
       color: #222; background: #fff; }
svg { width: 300px; margin-right: 2rem; } svg text { font-size: 12px; fill: #222; }
polyline { fill: none; stroke: #06c; stroke-width: 2; }
main { display: grid; gap: 2rem;
       grid-template-columns: repeat(auto-fill, minmax(min(100%, 36rem), 1fr)); }
figure { margin: 0; } figcaption { overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; align-items: start; }
.slider { position: relative; --gray: 50%; } .pair img { display: block; width: 100%; }
.before { position: absolute; inset: 0; width: 100%; height: 100%;
          clip-path: inset(0 calc(100% - var(--gray)) 0 0); }
input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
        cursor: ew-resize; }
.slider::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--gray); width: 2px;
                 background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }
input:focus-visible, .slider:focus-within { outline: 3px solid #06c; }
</style>
<h1>Colour for gray photos</h1>
<p>Drag across a picture: gray on the left, the net's colours on the right; next to it the true
colours, if they are known. Scores in brackets are those of the gray picture.</p>
{curve}
<main>
{figures}
</main>
<script>{script}</script>
</html>
"""
