"""Trees to push, the same ones each time: a small project, 2,000 files, one large file."""

from __future__ import annotations

import os
import random
import zlib
from pathlib import Path

PIECE = 65536


def small(folder: Path) -> int:
    """Tree a: 60 files of source text, 385 KB; the bytes written."""
    return _text_files(folder, random.Random("a"), count=60, total=385_000, noise=0.0)


def many(folder: Path, *, share: float = 1.0) -> int:
    """Tree b: 2,000 files, 30 MB, which gzip -1 halves; `share` takes the first part of it."""
    return _text_files(
        folder, random.Random("b"), count=int(2000 * share), total=int(29_900_000 * share),
        noise=0.33,
    )  # fmt: skip


def large(folder: Path, size: int = 70_000_000) -> int:
    """Tree c: one file of random bytes, as a zip is to a compressor."""
    return random_file(folder / "data" / "archive.bin", size)


def random_file(path: Path, size: int, seed: str = "c") -> int:
    """Bytes that nothing can compress, the same ones for the same seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = random.Random(seed)
    with path.open("wb") as file:
        for begin in range(0, size, PIECE):
            file.write(source.randbytes(min(PIECE, size - begin)))
    return size


def gzip_size(folder: Path) -> int:
    """Bytes of the files' contents after gzip -1, as one stream."""
    packer = zlib.compressobj(1)
    total = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total += len(packer.compress(path.read_bytes()))
    return total + len(packer.flush())


def change_one(path: Path, turn: int) -> None:
    """Change a few bytes in the middle; the time is another second's, which rsync looks at."""
    before = path.stat().st_mtime
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"changed-%06d" % turn)
    if path.stat().st_mtime < before + 1:
        os.utime(path, (before + 1, before + 1))


def _text_files(
    folder: Path, source: random.Random, *, count: int, total: int, noise: float
) -> int:
    """Files in nested folders, sizes from a tenth to about five times the mean.

    `noise` is the share of the bytes that nothing can compress."""
    syllables = ["con", "ta", "net", "loss", "grad", "im", "age", "x", "_to", "batch", "self", "."]
    words = ["".join(source.choices(syllables, k=source.randint(1, 4))) for _ in range(500)]
    weights = [0.1 + source.expovariate(1.0) for _ in range(count)]
    scale = total / sum(weights)
    written = 0
    for index, weight in enumerate(weights):
        size = max(16, int(weight * scale))
        path = folder / f"part_{index % 20:02d}" / f"step_{index % 7}" / f"file_{index:04d}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        random_bytes = source.randbytes(int(size * noise))
        lines: list[str] = []
        length = 0
        while length < size - len(random_bytes):
            line = "    " * source.randint(0, 3) + " ".join(source.choices(words, k=8))
            lines.append(line)
            length += len(line) + 1
        text = "\n".join(lines).encode()[: size - len(random_bytes)]
        path.write_bytes(text + random_bytes)
        written += size
    return written
