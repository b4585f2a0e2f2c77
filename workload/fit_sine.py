"""The classic first job of a cluster: fit y = a + b x + c x² + d x³ to sin(x) on [-π, π].

2,000 points, 2,000 steps of 1e-6, the gradients written out by hand; on a CPU or a GPU. Prints the
loss every 100 steps and a last line `Result: y = …`, and leaves a picture of the fit.
"""

import argparse
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from checkpoint import atomic_write
from PIL import Image, ImageDraw

SIZE = (900, 600)  # of the picture, pixels
MARGIN = 40
WHITE, GREY, BLUE, RED = "white", "#bbbbbb", "#1f77b4", "#d62728"


@dataclass(frozen=True)
class FitConfig:
    """What a fit is made of."""

    points: int = 2000
    steps: int = 2000
    rate: float = 1e-6
    seed: int = 0
    device: str = "auto"
    picture: Path = Path("sine_fit.png")


def parse_arguments(words: Sequence[str] | None = None) -> FitConfig:
    """The flags; argparse ends with exit code 2 where one is wrong."""
    default = FitConfig()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 …; auto: a GPU if any")
    parser.add_argument("--points", type=positive, default=default.points)
    parser.add_argument("--steps", type=positive, default=default.steps)
    parser.add_argument("--rate", type=float, default=default.rate)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--picture", type=Path, default=default.picture, help="a PNG of the fit")
    given = parser.parse_args(words)
    if not math.isfinite(given.rate) or given.rate <= 0:
        parser.error("--rate must be more than 0")
    return FitConfig(**vars(given))


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def choose_device(name: str) -> torch.device:
    """The device that is asked for; `auto` is a GPU where there is one."""
    if name in ("auto", "gpu"):
        found = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "gpu" and found == "cpu":
            raise ValueError("there is no GPU here; leave --device out to use the processor")
        return torch.device(found)
    device = torch.device(name)
    torch.zeros(1, device=device)
    return device


def fit(config: FitConfig, device: torch.device) -> list[float]:
    """The four coefficients, lowest power first, after gradient descent on the squared error.

    Raises ArithmeticError where it diverges.
    """
    generator = torch.Generator().manual_seed(config.seed)
    x = torch.linspace(-math.pi, math.pi, config.points, device=device)
    y = torch.sin(x)
    powers = torch.stack([torch.ones_like(x), x, x**2, x**3])  # (4, points)
    weights = torch.randn(4, generator=generator).to(device)
    for step in range(1, config.steps + 1):
        error = weights @ powers - y  # (points,)
        if step % 100 == 0 or step == config.steps:
            loss = float(error.square().sum())
            if not math.isfinite(loss):
                raise ArithmeticError(
                    f"the loss is {loss} after {step} steps: use a smaller --rate"
                )
            if step % 100 == 0:
                print(f"step {step:5d}  loss {loss:.4f}", flush=True)
        # d(Σ e²)/dw = 2 Σ e x^k, for each power k
        weights = weights - config.rate * 2.0 * (powers @ error)
    return [float(weight) for weight in weights]


def draw(coefficients: Sequence[float]) -> bytes:
    """A PNG: sin(x) in grey, the fit in blue."""
    picture = Image.new("RGB", SIZE, WHITE)
    pen = ImageDraw.Draw(picture)
    width, height = SIZE[0] - 2 * MARGIN, SIZE[1] - 2 * MARGIN

    def place(x: float, y: float) -> tuple[float, float]:
        shown = min(max(y, -1.5), 1.5)
        return (
            MARGIN + (x + math.pi) / (2 * math.pi) * width,
            MARGIN + (1.5 - shown) / 3.0 * height,
        )

    xs = [-math.pi + 2 * math.pi * number / 400 for number in range(401)]
    pen.line([place(-math.pi, 0), place(math.pi, 0)], fill=GREY)
    pen.line([place(0, -1.5), place(0, 1.5)], fill=GREY)
    pen.line([place(x, math.sin(x)) for x in xs], fill=RED, width=5)
    pen.line([place(x, value(coefficients, x)) for x in xs], fill=BLUE, width=3)
    pen.text((MARGIN, 10), "sin(x) in red, the fit in blue: " + formula(coefficients), fill="black")
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def value(coefficients: Sequence[float], x: float) -> float:
    """The polynomial at x."""
    return sum(weight * x**power for power, weight in enumerate(coefficients))


def formula(coefficients: Sequence[float]) -> str:
    """y = a + b x + c x^2 + d x^3"""
    a, b, c, d = coefficients
    return f"y = {a:.6f} + {b:.6f} x + {c:.6f} x^2 + {d:.6f} x^3"


def main(words: Sequence[str] | None = None) -> int:
    """Fit, print, draw; the exit code."""
    config = parse_arguments(words)
    try:
        device = choose_device(config.device)
        print(f"Fitting on {device}: {config.points} points, {config.steps} steps", flush=True)
        coefficients = fit(config, device)
    except (ArithmeticError, RuntimeError, ValueError, AssertionError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    print(f"Result: {formula(coefficients)}")
    try:
        atomic_write(config.picture, draw(coefficients))
    except OSError as error:
        print(f"error: {config.picture} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    print(f"Its picture: {config.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
