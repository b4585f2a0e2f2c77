"""Untrusted picture files: the only module that finds and opens them.

A file is opened by its content, whatever its name says, with the few decoders of FORMATS: none of
them starts a program. Its size is checked before its pixels are decoded, and the number of pixels
that are decoded at the same time is limited, too. Any error of a decoder becomes UnreadableImage.
"""

import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from plain_files import UnusualFile, open_plain, to_printable

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM")  # Pillow's PPM is PGM and PBM as well
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Not opened, but known by their first bytes, so that the message says what to do.
OTHER_KINDS = {b"GIF8": "GIF", b"%!PS": "PostScript", b"8BPS": "PSD", b"qoif": "QOI"}
# Compressions of a TIFF by cameras and scanners; those of fax machines are refused.
TIFF_COMPRESSIONS = {
    "raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg",
}  # fmt: skip

MAX_PIXELS = 64 * 1024 * 1024  # the largest sensors in common use have 61 million
MAX_SIDE = 65_500  # pixels: libjpeg writes no longer side
MAX_FILE_BYTES = 256 * 1024 * 1024
# Limits of what precedes the pixels: profiles, comments, previews. A header of many small pieces
# costs a decoder the square of their number.
MAX_HEADER_BYTES = 64 * 1024 * 1024
MAX_HEADER_READS = 10_000
MAX_SCANS = 50  # passes over a JPEG; progressive ones have about 10
# Pixels in memory at once, in all threads together; each takes 16 bytes at most.
MAX_PIXELS_AT_ONCE = 2 * MAX_PIXELS
MAX_DEPTH = 50  # folders inside folders

# Inside scans 0xFF is followed by 0 or by a restart marker, which this does not match.
JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")

# Pillow warns about damage that it tolerates and about large pictures: here limits decide.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImage(Exception):
    """A file that is not a picture, is damaged, or is too large; the message says which."""


def is_photo(path: str | Path) -> bool:
    """True for names of pictures, except the `._NAME.jpg` stubs in zips made by macOS."""
    name = Path(path).name
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def find_photos(folder: str | Path) -> Iterator[str]:
    """Find the pictures below a folder; yields their paths.

    Links are followed, but each folder is entered once, however many links lead to it, and none
    deeper than MAX_DEPTH. Folders that cannot be listed are skipped.
    """
    entered = set()
    pending = [(os.fspath(folder), 0)]
    while pending:
        path, depth = pending.pop()
        try:
            facts = Path(path).stat()
            with os.scandir(path) as listing:
                entries = list(listing)
        except OSError:
            continue
        if (facts.st_dev, facts.st_ino) in entered:
            continue
        entered.add((facts.st_dev, facts.st_ino))
        for entry in entries:
            if is_folder(entry):
                if depth < MAX_DEPTH:
                    pending.append((entry.path, depth + 1))
            elif is_photo(entry.name):
                yield entry.path


def is_folder(entry: os.DirEntry[str]) -> bool:
    """True for a folder and a link to one."""
    with suppress(OSError):  # a link that leads in a circle
        return entry.is_dir()
    return False


def load_rgb(path: str | Path, upright: bool = False, side: int | None = None) -> Image.Image:
    """Load a picture file as 8-bit RGB; raises UnreadableImage.

    `upright` rotates it as the camera was held; the course's loader does not. `side` resizes it to
    a square of side × side pixels, before the next large picture is decoded.
    """
    try:
        with open_image(path) as image, _PIXELS_IN_MEMORY.reserve(image.width * image.height):
            photo = to_rgb(image, upright)
            return photo if side is None else photo.resize((side, side), Image.Resampling.BILINEAR)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(describe_other_format(path)) from None
    except Exception as error:  # decoders of damaged files raise anything
        raise UnreadableImage(describe_error(error)) from None


def why_unreadable(path: str | Path) -> str | None:
    """Why a picture cannot be decoded to its end; None if it can."""
    try:
        load_rgb(path)
    except UnreadableImage as error:
        return str(error)
    return None


def describe_other_format(path: str | Path) -> str:
    """Describe a file that is in none of FORMATS."""
    with PictureFile(path) as file:
        start = file.read(8)
    kind = next((name for magic, name in OTHER_KINDS.items() if start.startswith(magic)), None)
    if start[4:] == b"ftyp":
        kind = "AVIF or HEIC"
    return f"{kind} is not opened: convert it to JPEG or PNG" if kind else "not a picture"


def describe_error(error: Exception) -> str:
    """Describe a decoder's error in a few words on one line."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()  # without the file's name, which the caller adds
    words = to_printable(" ".join(str(error).split()))
    return words[:120] or type(error).__name__


def to_rgb(image: Image.Image, upright: bool) -> Image.Image:
    """Decode an open picture's pixels as 8-bit RGB."""
    if upright:
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits of gray: a plain convert() would clip them
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("RGB")
    if "transparency" in image.info:  # of a palette: convert() to RGB warns about it
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open a picture and check its header against all limits."""
    with PictureFile(path) as file, Image.open(file, formats=FORMATS) as image:
        file.in_header = False
        check_size(*image.size)
        if isinstance(image, TiffImageFile):
            check_tiff(image)
        elif image.format in ("JPEG", "MPO"):
            check_scans(file)
        yield image


def check_size(width: int, height: int) -> None:
    """Raise UnreadableImage for a picture that is too large."""
    if width * height > MAX_PIXELS:
        raise UnreadableImage(
            f"{width}×{height} pixels, and at most {MAX_PIXELS // 1_000_000} million are opened"
        )
    if max(width, height) > MAX_SIDE:
        raise UnreadableImage(f"longer than a JPEG's {MAX_SIDE} pixels")


def check_tiff(image: TiffImageFile) -> None:
    """Raise UnreadableImage for a TIFF that is not a photo."""
    compression = image.info.get("compression")
    if compression not in TIFF_COMPRESSIONS:
        raise UnreadableImage(f"a TIFF with the compression {to_printable(str(compression))[:40]}")
    width, height = (image.tag_v2.get(tag, 1) for tag in (322, 323))  # of a tile
    check_size(int(width), int(height))


def check_scans(file: "PictureFile") -> None:
    """Raise UnreadableImage for a JPEG with more passes over its pixels than a photo has."""
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    # The quick count also finds bytes that only look like a scan: in a preview, after the end.
    if content.count(b"\xff\xda") > MAX_SCANS < count_scans(content):
        raise UnreadableImage(f"a JPEG of more than {MAX_SCANS} scans")


def count_scans(content: bytes) -> int:
    """Count the scans of a JPEG file up to its end, from marker to marker as libjpeg does."""
    scans = place = 0
    while (found := JPEG_MARKER.search(content, place)) and found[1] != b"\xd9":
        place = found.end()
        scans += found[1] == b"\xda"
        if found[1] not in (b"\x01", b"\xd8"):  # all others have a length, and content to skip
            place += int.from_bytes(content[place : place + 2], "big")
    return scans


class PictureFile(io.BufferedReader):
    """A regular file of limited size with a short header; raises UnreadableImage otherwise."""

    def __init__(self, path: str | Path) -> None:
        try:
            super().__init__(open_plain(path, MAX_FILE_BYTES))
        except UnusualFile as error:
            raise UnreadableImage(str(error)) from None
        self.in_header = True
        self.reads = self.bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        """Read like any file; too much before the pixels is an error."""
        content = super().read(size)
        if self.in_header:
            self.reads += 1
            self.bytes_read += len(content)
            if self.reads > MAX_HEADER_READS or self.bytes_read > MAX_HEADER_BYTES:
                raise UnreadableImage("more data before the pixels than a photo has")
        return content


class PixelBudget:
    """A number of pixels that threads share; one that needs more than is left waits."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self.used = 0
        self.changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Reserve pixels for a picture; one that is larger than all of them has them alone."""
        with self.changed:
            self.changed.wait_for(lambda: not self.used or self.used + pixels <= self.pixels)
            self.used += pixels
        try:
            yield
        finally:
            with self.changed:
                self.used -= pixels
                self.changed.notify_all()


_PIXELS_IN_MEMORY = PixelBudget(MAX_PIXELS_AT_ONCE)
