"""Trees to push, the same for the same Python: a small project, 2,000 files, one large file."""

from __future__ import annotations

import os
import random
import sysconfig
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
        noise=0.31,
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

    `noise` is the share of the bytes that nothing can compress; the rest is real source text."""
    weights = [0.1 + source.expovariate(1.0) for _ in range(count)]
    scale = total / sum(weights)
    sizes = [max(16, int(weight * scale)) for weight in weights]
    text = _source_text(int(total * (1 - noise)) + count, source)
    begin = 0
    for index, size in enumerate(sizes):
        path = folder / f"part_{index % 20:02d}" / f"step_{index % 7}" / f"file_{index:04d}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        random_bytes = source.randbytes(int(size * noise))
        end = begin + size - len(random_bytes)
        path.write_bytes(text[begin:end] + random_bytes)
        begin = end
    return sum(sizes)


def _source_text(size: int, source: random.Random) -> bytes:
    """Python that people wrote: made-up text suits some compressors far better than others.

    The same for the same Python: its library's files and those of installed packages."""
    paths = sysconfig.get_paths()
    found = []
    for place in dict.fromkeys((paths["stdlib"], paths["purelib"])):
        for path in sorted(Path(place).rglob("*.py")):
            words = set(path.relative_to(place).parts)
            if not words & {"test", "tests", "site-packages"}:
                found.append(path)
    source.shuffle(found)
    pieces: list[bytes] = []
    missing = size
    for path in found:
        pieces.append(path.read_bytes())
        missing -= len(pieces[-1])
        if missing <= 0:
            return b"".join(pieces)
    raise ValueError(f"this Python has only {size - missing} bytes of source text, not {size}")
