"""The decoded and resized photos in one file, written once and then mapped into memory.

Decoding and resizing cost more than the rest of loading together and give the same result each
time. The file's name is a digest of the photos' names, sizes and times and of the image size: a
cache is never out of date, it is only deleted when it has not been used for long.
"""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from image_files import UnreadableImage, load_rgb

LAYOUT = 1  # version of the file's format; a part of each digest
KEPT = 4  # caches in the folder; the least recently used are deleted
# The errors of a disk that cannot take the file.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}

ProgressWrapper = Callable[[Iterable[Any], int], Iterable[Any]]


def default_folder() -> Path:
    """The folder of caches, which may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "colorize"


def digest(files: Sequence[str], image_size: int) -> str:
    """The name of a cache: it differs for other photos, changed photos and another size."""
    facts = [(stat.st_size, stat.st_mtime_ns) for stat in map(stat_photo, files)]
    content = json.dumps([LAYOUT, image_size, [os.path.realpath(f) for f in files], facts])
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()[:24]


def stat_photo(file: str) -> os.stat_result:
    """The status of a file, or of a dangling link itself: decoding will report that."""
    path = Path(file)
    return path.stat() if path.exists() else path.lstat()


def open_cache(
    files: Sequence[str],
    image_size: int,
    folder: Path,
    *,
    workers: int | None = None,
    progress: ProgressWrapper = lambda items, total: items,
    say: Callable[[str], None] = print,
) -> tuple[torch.Tensor, dict[int, str]]:
    """The photos as (N, S, S, 3) uint8, and why some of them cannot be read, by their index.

    A photo that cannot be read is black. Processes that need the same cache decode it once, and one
    that is killed leaves nothing that a later one would trust. Without space on the disk the photos
    are decoded into memory, and `say` is called with a line about it.
    """
    shape = (len(files), image_size, image_size, 3)
    name = digest(files, image_size)
    pixels_file, notes_file = folder / f"{name}.u8", folder / f"{name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{name}.lock", say):
            unreadable = read_unreadable(notes_file, pixels_file, shape)
            if unreadable is None:
                for leftover in folder.glob(f"{name}.*.tmp"):
                    leftover.unlink(missing_ok=True)  # of a process that was killed
                unreadable = build(files, shape, pixels_file, workers, progress)
                replace_file(notes_file, json.dumps(unreadable).encode())
                remove_old(folder, keep=name)
            os.utime(pixels_file)
            return map_file(pixels_file, shape), unreadable
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        say(f"No cache of the photos in {folder} ({error.strerror}): they are kept in memory")
    pixels = torch.zeros(shape, dtype=torch.uint8)
    return pixels, decode(files, pixels, workers, progress)


def read_unreadable(notes: Path, pixels: Path, shape: Sequence[int]) -> dict[int, str] | None:
    """The unreadable photos of a finished cache; None if the cache is unfinished or damaged."""
    with suppress(OSError, ValueError, RecursionError):
        if pixels.stat().st_size == np.prod(shape):
            found = json.loads(notes.read_text())
            if isinstance(found, dict) and all(isinstance(why, str) for why in found.values()):
                unreadable = {int(index): why for index, why in found.items()}
                if all(0 <= index < shape[0] for index in unreadable):
                    return unreadable
    return None


def map_file(path: Path, shape: Sequence[int], shared: bool = False) -> torch.Tensor:
    """Map a file's bytes as a tensor; writes reach the file only if it is `shared`."""
    count = int(np.prod(shape))
    return torch.from_file(str(path), shared, count, dtype=torch.uint8).view(*shape)


def build(
    files: Sequence[str],
    shape: Sequence[int],
    path: Path,
    workers: int | None,
    progress: ProgressWrapper,
) -> dict[int, str]:
    """Decode all photos into `path`, which appears when it is complete."""
    unfinished = path.with_name(f"{path.stem}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            reserve(file, int(np.prod(shape)))
            pixels = map_file(unfinished, shape, shared=True)
            unreadable = decode(files, pixels, workers, progress)
            del pixels
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return unreadable


def reserve(file: BinaryIO, size: int) -> None:
    """Allocate the space now: a disk that fills up under a mapped file kills the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, 1 << 20):  # macOS
        file.write(bytes(min(1 << 20, size - start)))
    file.flush()


def decode(
    files: Sequence[str], pixels: torch.Tensor, workers: int | None, progress: ProgressWrapper
) -> dict[int, str]:
    """Decode the photos into `pixels`, in threads: Pillow releases Python's lock."""
    side = pixels.shape[1]
    target = pixels.numpy()

    def one(index: int) -> str | None:
        try:
            target[index] = np.asarray(load_rgb(files[index], side=side))
        except UnreadableImage as error:
            return str(error)
        return None

    pool = ThreadPoolExecutor(workers or None)
    try:
        problems = list(progress(pool.map(one, range(len(files))), len(files)))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C the rest is not decoded
    return {index: problem for index, problem in enumerate(problems) if problem is not None}


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file atomically."""
    unfinished = path.with_name(f"{path.stem}.{os.getpid()}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)


@contextmanager
def locked(path: Path, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold a lock that the system releases when the process dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another process is decoding the same photos: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_old(folder: Path, keep: str) -> None:
    """Delete all but the KEPT caches used last; processes that have one mapped keep it."""
    caches = sorted(folder.glob("*.u8"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in caches[KEPT:]:
        if path.stem != keep:
            with suppress(OSError):
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink()
