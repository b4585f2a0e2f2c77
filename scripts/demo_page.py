"""The demo's result on one page that loads nothing: pictures, curves, and each step's time."""

from __future__ import annotations

import base64
import html
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Step:
    """One step: when it began, in seconds after the demo did, and how long it took."""

    title: str
    began: float
    epoch: float = 0.0  # the demo's start on the monotonic clock
    took: float = 0.0

    def end(self) -> None:
        """It ends now."""
        self.took = time.monotonic() - self.epoch - self.began


def verdict(history: Sequence[dict[str, float]]) -> str:
    """One sentence: how much better than the gray photo the trained net is, on unseen photos."""
    scores = history[-1] if history else {}
    if not {"psnr", "gray_psnr"} <= set(scores):
        return "The net was not compared with a gray copy."
    psnr, gray = scores["psnr"], scores["gray_psnr"]
    compared = f"{psnr:.2f} dB, the gray photos alone {gray:.2f} dB"
    if psnr <= gray:
        return f"On photos it never saw the net is not better than gray yet: {compared}."
    return f"On photos it never saw the net beats gray by {psnr - gray:.2f} dB: {compared}."


def page(
    steps: Sequence[Step],
    took: float,
    words: str,
    history: Sequence[dict[str, float]],
    losses: Sequence[Sequence[float]],
    sample: bytes,
) -> str:
    """The page. `losses` are TensorBoard's points (seconds, step, loss), `sample` is a PNG."""
    curves = [curve("training loss", "step", [(p[1], p[2]) for p in losses], "{:.4f}")]
    scores = [(e["epoch"], e["psnr"]) for e in history if "psnr" in e and "epoch" in e]
    gray = history[-1].get("gray_psnr") if history else None
    curves.append(curve("validation PSNR, dB (dashed: gray)", "epoch", scores, "{:.2f}", gray))
    rows = "\n".join(row(step, took) for step in sorted(steps, key=lambda step: step.began))
    return (
        PAGE.replace("{words}", html.escape(words))
        .replace("{took}", f"{int(took // 60)} min {took % 60:.0f} s")
        .replace("{picture}", base64.b64encode(sample).decode())
        .replace("{curves}", "\n".join(curves))
        .replace("{rows}", rows)
    )


def row(step: Step, total: float) -> str:
    """A step as a row of the table, with a bar from its begin to its end."""
    total = max(total, 1e-9)
    left, width = 100 * step.began / total, max(0.3, 100 * step.took / total)
    return (
        f"<tr><td><code>{html.escape(step.title)}</code></td><td>{step.took:.1f} s</td>"
        f'<td><i style="margin-left:{left:.2f}%;width:{min(width, 100 - left):.2f}%"></i></td></tr>'
    )


def curve(
    title: str,
    unit: str,
    points: Sequence[tuple[float, float]],
    form: str,
    level: float | None = None,
) -> str:
    """A drawing of (x, y) points, with a dashed line at `level`; nothing for fewer than two."""
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(points) < 2:
        return ""
    heights = [y for _, y in points] + ([] if level is None else [level])
    low, high = min(heights), max(heights)
    first, last = points[0][0], points[-1][0]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / ((last - first) or 1)
        return 60 + 400 * across, 190 - 150 * (y - low) / ((high - low) or 1)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    dashes = ""
    if level is not None:
        y = place(first, level)[1]
        dashes = f'<line x1="60" x2="460" y1="{y:.1f}" y2="{y:.1f}"/>'
    said = f"{title}: from {form.format(points[0][1])} to {form.format(points[-1][1])}"
    return (
        f'<svg viewBox="0 0 480 220" role="img" aria-label="{html.escape(said)}">'
        f'<text x="60" y="20">{html.escape(said)}</text>'
        f'<text x="52" y="44" text-anchor="end">{form.format(high)}</text>'
        f'<text x="52" y="194" text-anchor="end">{form.format(low)}</text>'
        f'{dashes}<polyline points="{line}"/>'
        f'<text x="60" y="212">{unit} {first:g}</text>'
        f'<text x="460" y="212" text-anchor="end">{unit} {last:g}</text></svg>'
    )


# It loads nothing and runs nothing.
PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>vmctl: the demo</title>
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: #222; background: #fff; }
img { max-width: 100%; } .curves { display: flex; flex-wrap: wrap; gap: 1rem; }
svg { width: 30rem; max-width: 100%; } svg text { font-size: 12px; fill: #222; }
polyline { fill: none; stroke: #06c; stroke-width: 2; }
svg line { stroke: #666; stroke-dasharray: 5 4; }
table { border-collapse: collapse; width: 100%; } td { padding: .2rem .6rem .2rem 0; }
td:nth-child(2) { text-align: right; white-space: nowrap; }
td:nth-child(3) { width: 45%; background: #f4f4f4; padding: 0; }
i { display: block; height: .9rem; background: #06c; }
</style>
<h1>A U-Net that colours gray photos</h1>
<p>{words} Trained by <code>vmctl</code> on a machine of the embedded Compute Engine, whose GPU is
simulated: the job ran on this computer's processors. All steps together: {took}.</p>
<h2>Gray, predicted, true</h2>
<p><img src="data:image/png;base64,{picture}" alt="one photo of each class: gray, as the net
colours it, and as it was"></p>
<h2>How it learnt</h2>
<div class="curves">{curves}</div>
<h2>What was done, and how long it took</h2>
<table>{rows}</table>
</html>
"""
