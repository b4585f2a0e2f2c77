"""The net's colours, in the fastest arithmetic of the device, and how good they are."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from colours import gray_copy, keep_luma
from metrics import colourfulness, psnr, ssim
from torch import nn

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_dtype(device: torch.device, precision: str = "auto") -> torch.dtype | None:
    """The type that convolutions compute in; None means plain float32.

    `auto` is the fastest that the device multiplies natively. CPUs get bfloat16 only with AMX: on
    AVX-512 alone it was measured slower than float32.
    """
    if precision != "auto":
        return PRECISIONS[precision]
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)  # a T4 is (7, 5)
        return torch.bfloat16 if has_bfloat16 else torch.float16
    cpuinfo = Path("/proc/cpuinfo")
    has_amx = cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()
    return torch.bfloat16 if has_amx else None


def predict(net: nn.Module, gray: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """(N, 1, H, W) gray -> the net's own colours (N, 3, H, W) in float32, under autocast."""
    with torch.autocast(gray.device.type, dtype=dtype, enabled=dtype is not None):
        return net(gray).float()


@torch.inference_mode()
def colorize_batch(net: nn.Module, gray: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """(N, 1, H, W) gray -> pictures (N, 3, H, W) in [0, 1]: the net's chroma, the photos' luma."""
    device = next(net.parameters()).device
    return keep_luma(predict(net, gray.to(device), dtype), gray.to(device)).clamp(0, 1)


class Scores(NamedTuple):
    """Means over photos; `gray_` is the photo without any colour: what the net must beat."""

    psnr: float
    ssim: float
    colourfulness: float
    gray_psnr: float
    gray_ssim: float
    true_colourfulness: float

    def __str__(self) -> str:
        return (
            f"validation PSNR {self.psnr:.2f} dB (gray copy {self.gray_psnr:.2f} dB),"
            f" SSIM {self.ssim:.3f} ({self.gray_ssim:.3f}),"
            f" colourfulness {self.colourfulness:.1f} (truth {self.true_colourfulness:.1f})"
        )


@torch.inference_mode()
def validate(
    net: nn.Module,
    loader: Iterable[Any],
    dtype: torch.dtype | None,
    check_stop: Callable[[], None] = lambda: None,
) -> Scores:
    """Score the net's pictures of the loader's photos; `check_stop` may raise between batches."""
    device = next(net.parameters()).device
    columns = []
    for gray, truth, *_ in loader:
        gray, truth = gray.to(device), truth.to(device)
        ours, copy = colorize_batch(net, gray, dtype), gray_copy(gray)
        scores = [psnr(ours, truth), ssim(ours, truth), colourfulness(ours)]
        scores += [psnr(copy, truth), ssim(copy, truth), colourfulness(truth)]
        columns.append(torch.stack(scores))
        check_stop()
    return Scores(*torch.cat(columns, dim=1).mean(dim=1).tolist())
