"""The memory that a step needs, for the advice when it does not fit."""

from pathlib import Path

import torch

# Bytes that a training step keeps per photo of 224×224, measured: with float32 activations, and
# with half of them in 16 bits. The cost grows with the number of pixels.
BYTES_PER_PHOTO = {None: 88.9e6 * 1.25, torch.bfloat16: 51.2e6 * 1.4, torch.float16: 51.2e6 * 1.4}
FIXED_BYTES = 1.0e9  # the libraries' own workspace; weights and Adam's state are 31 MB


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors of GPU and CPU libraries when memory is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # PyTorch's own, oneDNN's, the CUDA driver's, and those of NVIDIA's libraries
    words = ("allocate memory", "could not create a primitive", "out of memory", "_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def get_memory_bytes(device: torch.device) -> int | None:
    """The bytes of memory that the device has for a training; None if they are unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        lines = dict(line.split(":") for line in text.splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def suggest_batch_size(
    batch_size: int,
    image_size: int,
    dtype: torch.dtype | None,
    memory: int | None,
    share: float = 1.0,
) -> int:
    """A smaller batch that should fit into `memory` bytes; half of it if they are unknown.

    `share` is what the net keeps per photo, relative to the UNet.
    """
    half = max(1, batch_size // 2)
    if memory is None:
        return half
    per_photo = BYTES_PER_PHOTO[dtype] * share * (image_size / 224) ** 2
    fitting = max(1, int((memory - FIXED_BYTES) * 0.9 / per_photo))
    if fitting >= batch_size:  # another program uses the memory
        return half
    return fitting if fitting < 8 else fitting - fitting % 8
