"""Pictures that were made to do harm: each is left out with a reason, and costs next to nothing."""

import io
import os
import random
import resource
import shutil
import struct
import threading
import time
import zlib

import colorize
import pytest
import torch
from checkpoint import save_weights
from data_utils import ImageFolderGrayColor
from dataset import PhotoDataset
from fast_unet import FastUNet
from gallery import enlarge_rows
from image_files import (
    MAX_DEPTH,
    MAX_SCANS,
    PixelBudget,
    UnreadableImage,
    count_scans,
    find_photos,
    load_rgb,
    why_unreadable,
)
from PIL import Image
from plain_files import to_printable

FUZZED = 2000


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width, height, *before_pixels, depth=1, pixels=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(before_pixels)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def flat_png(width, height):
    """As small as such a picture gets: a line of white is a thousandth of its size."""
    packer = zlib.compressobj(9)
    line = b"\0" + bytes((width + 7) // 8)
    return png(
        width,
        height,
        pixels=b"".join(packer.compress(line) for _ in range(height)) + packer.flush(),
    )


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def reason(tmp_path):
    """Why a file of such content is left out; None if it is a picture."""

    def printed(content, name="photo.jpg"):
        (tmp_path / name).write_bytes(content)
        return why_unreadable(tmp_path / name)

    return printed


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 100 100
%%EndComments
(pwned) print quit
"""


def test_a_photo_that_holds_postscript_starts_no_ghostscript(tmp_path, monkeypatch):
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(EPS)
    with Image.open(photo) as picture, pytest.raises(OSError):
        picture.load()  # Pillow alone would start it
    assert (tmp_path / "started").exists()
    (tmp_path / "started").unlink()
    assert why_unreadable(photo) == "PostScript is not opened: convert it to JPEG or PNG"
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["GIF", "AVIF", "ICO", "PCX", "SGI", "TGA", "DDS", "PDF", "IM"])
def test_what_is_no_photos_format_is_not_opened_whatever_its_name(reason, kind):
    content = encoded(Image.new("RGB", (8, 8)), kind)
    assert reason(content, "photo.jpg") and reason(content, "photo.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM"])
def test_a_photo_is_opened_by_what_it_holds_and_not_by_its_name(reason, kind):
    assert reason(encoded(Image.new("RGB", (8, 8)), kind), "photo.jpg") is None
    assert reason(encoded(Image.new("RGB", (8, 8)), kind), "photo.webp") is None


def test_a_cut_qoi_is_no_traceback(reason):
    assert "QOI is not opened" in reason(b"qoif" + struct.pack(">IIBB", 9, 9, 3, 0) + b"\xfe")


def test_eleven_kilobytes_that_are_88_megapixels_are_not_decoded(tmp_path):
    (tmp_path / "photo.png").write_bytes(content := flat_png(9400, 9400))
    assert len(content) < 16_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "at most 67 million" in why_unreadable(tmp_path / "photo.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


@pytest.mark.parametrize("side", [70_000, 2**31 - 1])
def test_sides_that_no_photo_has_are_refused(reason, side):
    for width, height in ((side, side), (side, 1), (1, side)):
        assert reason(png(width, height))


def test_frames_are_not_counted(reason):
    frames = [Image.new("L", (4, 4), number % 256) for number in range(600)]
    for kind, options in (("WEBP", {}), ("TIFF", {}), ("PNG", {})):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        began = time.process_time()
        assert reason(content) is None
        assert time.process_time() - began < 1


def test_a_header_of_a_hundred_thousand_pieces_is_no_photos(reason):
    comments = b"\xff\xfe\0\3." * 100_000
    photo = encoded(Image.new("RGB", (8, 8)), "JPEG")
    assert "more data before the pixels" in reason(photo[:2] + comments + photo[2:])
    text = chunk(b"tEXt", b"a\0b") * 100_000
    assert "more data before the pixels" in reason(png(8, 8, text))


def test_texts_and_profiles_that_grow_do_not_fill_the_memory(reason):
    large = zlib.compress(bytes(50_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason(png(8, 8, chunk(b"zTXt", b"a\0\0" + large)))
    assert reason(png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + large)))
    reason(png(8, 8, chunk(b"iCCP", b"a\0\0" + large)))  # Pillow goes on without it
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def progressive(scans):
    """A JPEG that draws the same again and again."""
    photo = encoded(Image.new("L", (16, 16)), "JPEG", progressive=True)
    start = photo.rindex(b"\xff\xda")
    return photo[:start] + photo[start:-2] * scans + b"\xff\xd9"


def test_a_jpeg_that_draws_itself_a_thousand_times_is_no_photo(reason):
    assert f"more than {MAX_SCANS} scans" in reason(progressive(1000))
    assert reason(progressive(1)) is None
    # an end marker inside of a comment does not end it, a film behind the end does not count
    hidden = progressive(1000).replace(b"\xff\xda", b"\xff\xfe\0\4\xff\xd9\xff\xda", 1)
    assert count_scans(hidden) > 1000
    assert reason(progressive(1) + b"\xff\xda" * 1000) is None


def tiff(**tags):
    """A TIFF of 8 by 8 gray pixels, with these tags in place of its own."""
    numbers = {"width": 256, "height": 257, "bits": 258, "compression": 259, "gray": 262}
    numbers |= {"offset": 273, "size": 279, "tile_width": 322, "tile_height": 323, "tile": 324}
    own = {"width": 8, "height": 8, "bits": 8, "compression": 1, "gray": 1}
    wanted = sorted((numbers[name], value) for name, value in (own | tags).items())
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in wanted)
    return b"II*\0" + struct.pack("<IH", 8, len(wanted)) + entries + bytes(4 + 64)


def test_a_tiff_whose_tiles_are_larger_than_a_photo_or_packed_like_a_fax_is_refused(reason):
    assert reason(tiff(offset=16, size=64)) is None
    tiles = {"compression": 8, "tile": 16, "tile_width": 1 << 20, "tile_height": 1 << 20}
    assert "million are opened" in reason(tiff(**tiles))
    assert reason(tiff(offset=16, size=64, compression=4)) == "a TIFF with the compression group4"


def test_a_run_length_bitmap_cannot_skip_over_gigabytes(reason):
    header = struct.pack("<IiiHHIIiiII", 40, 60_000_000, 1, 1, 8, 1, 0, 1, 1, 1, 0) + bytes(4)
    content = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(header)) + header + b"\0\2\0\xff" * 9
    assert reason(content, "photo.bmp") == "longer than a JPEG's 65500 pixels"


def test_what_is_no_plain_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    assert why_unreadable(tmp_path / "photo.jpg") == "not a plain file"
    assert why_unreadable(tmp_path / "zero.jpg") == "not a plain file"
    assert "symbolic links" in why_unreadable(tmp_path / "loop.jpg")
    assert "at most 268 MB" in why_unreadable(tmp_path / "sparse.png")


def test_thousands_of_damaged_pictures_are_one_error(tmp_path):
    dice = random.Random(0)
    noise = Image.frombytes("RGB", (24, 16), dice.randbytes(24 * 16 * 3))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a"
    whole = [
        encoded(noise, "JPEG", exif=exif),
        encoded(noise, "JPEG", progressive=True, comment=b"c"),
        encoded(noise, "PNG", exif=exif),
        encoded(noise.convert("P"), "PNG", transparency=3),
        encoded(noise, "WEBP", exif=exif.tobytes()),
        encoded(noise, "WEBP", lossless=True, save_all=True, append_images=[noise.rotate(90)]),
        encoded(noise, "TIFF", compression="tiff_lzw"),
        encoded(noise, "TIFF", exif=exif),
        encoded(noise.convert("P"), "BMP"),
        encoded(noise, "PPM"),
    ]
    file = tmp_path / "photo.jpg"
    opened = 0
    for number in range(FUZZED):
        content = bytearray(whole[number % len(whole)])
        for _ in range(dice.randrange(1, 8)):
            place = dice.randrange(min(len(content), dice.choice((40, 200, len(content)))))
            content[place] = dice.choice((0, 255, dice.randrange(256)))
        if dice.random() < 0.2:
            del content[dice.randrange(len(content)) :]
        file.write_bytes(content)
        try:
            assert load_rgb(file, upright=True, side=8).size == (8, 8)
            opened += 1
        except UnreadableImage as error:
            assert str(error).isprintable() and len(str(error)) < 200
    assert 0 < opened < FUZZED


def test_large_pictures_take_turns():
    room, most, inside, lock = PixelBudget(10), [], [], threading.Lock()

    def take(pixels):
        with room.reserve(pixels):
            with lock:
                inside.append(pixels)
                most.append(sum(inside))
            with lock:
                inside.remove(pixels)

    threads = [threading.Thread(target=take, args=(n,)) for n in (4, 6, 3, 99, 5, 10) * 20]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert room.used == 0 and len(most) == len(threads)
    assert all(total <= 10 or total == 99 for total in most)


def test_links_in_a_cycle_are_walked_once(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "data")
    for folder in ("field", "ocean"):
        for number in range(8):  # torchvision's walk would take 8 to the power of 40 ways
            (tmp_path / "data" / folder / f"link{number}").symlink_to("..")
    found = ImageFolderGrayColor(tmp_path / "data", check=False)
    assert sorted({os.path.realpath(path) for path, _ in found.samples}) == sorted(
        os.path.realpath(path) for path in (tmp_path / "data").glob("*/*.jpg")
    )


def test_folders_nested_without_end_are_left_alone(tmp_path):
    here = tmp_path / "data"
    for _ in range(MAX_DEPTH):
        here /= "d"
    here.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(here / "deep.jpg")
    (here / "d").mkdir()
    Image.new("RGB", (8, 8)).save(here / "d/deeper.jpg")
    assert [path.rpartition("/")[2] for path in find_photos(tmp_path / "data")] == ["deep.jpg"]


def test_a_name_cannot_command_the_terminal(photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "data")
    (tmp_path / "data/field/\x1b]52;c;cHduZWQ=\x07\n\u202e.jpg").touch()
    folder = ImageFolderGrayColor(tmp_path / "data", check=False)
    PhotoDataset(folder, 8, cache_dir=tmp_path / "cache")
    save_weights(FastUNet(), tmp_path / "unet.pth")
    flags = ["--test_net", str(tmp_path / "unet.pth"), "--images", str(tmp_path / "data")]
    assert colorize.main([*flags, "--out_dir", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.count(r"\x1b]52;c;cHduZWQ=\x07\n\u202e.jpg (not a picture)") == 2
    assert all(line.isprintable() for line in printed.splitlines())
    assert to_printable("schöne Bilder, 写真") == "schöne Bilder, 写真"


def test_chroma_is_enlarged_in_bands_as_in_one(tmp_path):
    torch.manual_seed(0)
    small = torch.rand(1, 3, 16, 32)
    for height, width in ((5, 7), (47, 61), (300, 20)):
        whole = torch.nn.functional.interpolate(
            small, (height, width), mode="bilinear", align_corners=False
        )
        bands = [
            enlarge_rows(small, width, height, range(top, min(top + 7, height)))
            for top in range(0, height, 7)
        ]
        assert torch.allclose(torch.cat(bands, dim=2), whole, atol=1e-5)
