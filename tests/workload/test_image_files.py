import os
import re
import shutil

import colorize
import numpy as np
import pytest
import torch
from data_utils import ImageFolderGrayColor
from dataset import PhotoDataset
from image_files import UnreadableImage, load_rgb, why_unreadable
from PIL import Image

from tests.workload.programs import run

RAMP = np.arange(256, dtype=np.uint8)[None].repeat(4, axis=0)


def saved(folder, name, image, **options):
    image.save(folder / name, **options)
    return folder / name


def palette(alpha):
    picture = Image.new("P", (8, 8))
    picture.putpalette([250, 10, 20] * 256)
    return picture, {"transparency": bytes([128] * 256)} if alpha else {}


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "RGBA", "P", "CMYK", "I", "F"])
def test_every_mode_of_pillow_becomes_8_bit_rgb(tmp_path, mode):
    picture = Image.new("RGB", (9, 5), (200, 100, 50))
    for step in ("L", mode) if mode in ("LA", "I", "F") else (mode,):
        picture = picture.convert(step)
    name = "picture.tiff" if mode in ("CMYK", "I", "F") else "picture.png"
    photo = load_rgb(saved(tmp_path, name, picture))
    assert (photo.mode, photo.size) == ("RGB", (9, 5))


def test_16_bits_of_gray_are_scaled_and_not_clipped_to_white(tmp_path):
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    file = saved(tmp_path, "deep.png", deep)
    with Image.open(file) as opened:
        assert opened.mode.startswith("I")
    assert np.array_equal(np.asarray(load_rgb(file))[:, :, 1], RAMP)


@pytest.mark.parametrize("alpha", [False, True])
def test_palettes_are_looked_up(tmp_path, alpha):
    picture, options = palette(alpha)
    photo = load_rgb(saved(tmp_path, "palette.png", picture, **options))
    assert photo.getpixel((0, 0)) == (250, 10, 20)


def test_a_picture_can_be_turned_as_the_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera stood on its side
    file = saved(tmp_path, "held.jpg", Image.new("RGB", (30, 10)), exif=exif)
    assert load_rgb(file).size == (30, 10)
    assert load_rgb(file, upright=True).size == (10, 30)


def test_a_picture_too_large_for_a_photo_is_left_out_before_it_is_decoded(tmp_path, monkeypatch):
    file = saved(tmp_path, "huge.png", Image.new("1", (300, 200)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    assert "exceeds limit" in why_unreadable(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # more than twice as large
    assert "exceeds limit" in why_unreadable(file)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a"]
)
def test_a_file_that_is_not_a_picture_says_why(tmp_path, content):
    (tmp_path / "file.jpg").write_bytes(content)
    assert why_unreadable(tmp_path / "file.jpg")
    with pytest.raises(UnreadableImage):
        load_rgb(tmp_path / "file.jpg")


@pytest.fixture
def zoo(photos, tmp_path):
    """Good photos among all that people put into a folder of photos."""
    folder = tmp_path / 'it\'s a "zoo" of ünicode & <b>'
    shutil.copytree(photos, folder)
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    field = folder / "field"
    picture.save(field / 'it\'s "quoted" ünd <b>.jpg')
    picture.convert("L").save(field / "gray.jpg")
    picture.convert("CMYK").save(field / "print.jpg")
    picture.convert("P").save(field / "palette.png")
    Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257).save(field / "deep.png")
    Image.new("RGB", (1, 1), "red").save(field / "tiny.png")
    Image.new("RGB", (3000, 2), "red").save(field / "flat.png")
    whole = (field / "gray.jpg").read_bytes()
    (field / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (field / "empty.jpg").touch()
    (field / "text.png").write_text("no picture")
    (field / "._0.jpg").write_bytes(b"\0\5\x16\7")
    (field / "notes.txt").write_text("no picture either")
    (folder / "__MACOSX" / "field").mkdir(parents=True)
    (folder / "__MACOSX" / "field" / "._0.jpg").write_bytes(b"\0\5\x16\7")
    return folder


def test_a_training_takes_what_can_be_read_and_names_the_rest(zoo, tmp_path, capsys):
    flags = ["--data_path", str(zoo), "--out_dir", str(tmp_path / "out"), "--image_size", "16"]
    assert colorize.main([*flags, "--epochs", "1", "--batch_size", "8"]) == 0
    printed = capsys.readouterr().out
    (left_out,) = re.findall(r"^Left out 3 unreadable: (.*)$", printed, re.MULTILINE)
    assert left_out.startswith("field/cut.jpg (image file is truncated")
    assert left_out.endswith("field/empty.jpg (not a picture), field/text.png (not a picture)")
    count, held_out = map(int, re.search(r"(\d+) photos to train on, (\d+) to", printed).groups())
    assert count + held_out == 24 + 7
    assert torch.load(tmp_path / "out/unet.pth", weights_only=True)


def test_unreadable_photos_are_on_neither_side(zoo, tmp_path):
    photos = PhotoDataset(ImageFolderGrayColor(zoo, check=False), 8, cache_dir=tmp_path / "cache")
    names = {
        photos.files[index].rpartition("/")[2]
        for index in photos.train_indices + photos.val_indices
    }
    assert not names & {"cut.jpg", "empty.jpg", "text.png", "._0.jpg"}
    assert not set(photos.train_indices) & set(photos.val_indices)
    for name, index in photos.one_of_each_class().items():
        assert photos.classes[index] == name and index in photos.val_indices


def test_the_folder_alone_lists_without_decoding(zoo):
    found = ImageFolderGrayColor(zoo, check=False)
    assert len(found) == 24 + 7 + 3 and found.unreadable == []
    assert found.classes == ["field", "ocean"]


def test_names_that_are_no_text_and_links_that_lead_nowhere_stop_nothing(photos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    strange = os.fsdecode(b"M\xfcnchen.jpg")  # as an old zip names it
    shutil.copy(photos / "field/0.jpg", data / "field" / strange)
    (data / "field" / os.fsdecode(b"\xff.jpg")).touch()
    (data / "ocean/link.jpg").symlink_to(tmp_path / "gone.jpg")
    # a picture of a kind that Pillow knows half of, under another kind's name
    (data / "ocean/texture.jpg").write_bytes(b"DDS " + (124).to_bytes(4, "little") + bytes(120))

    program = ["colorize.py", "--out_dir", tmp_path]
    done = run([*program, "--data_path", data, "--image_size", "16", "--epochs", "1"])
    assert done.returncode == 0, done.stderr
    left_out = "field/\\udcff.jpg (not a picture), ocean/link.jpg ("
    assert f"Left out 3 unreadable: {left_out}" in done.stdout
    done = run([*program, "--test_net", tmp_path / "unet.pth", "--images", data])
    assert done.returncode == 0, done.stderr
    assert "Coloured 25 pictures" in done.stdout and "Left out 3" in done.stdout
    assert (tmp_path / "colorized/field" / strange).exists()
    assert "M?nchen.jpg" in (tmp_path / "colorized.html").read_text()


def test_too_few_readable_photos_are_one_sentence(tmp_path, capsys):
    (tmp_path / "data/field").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "data/field/good.jpg")
    (tmp_path / "data/field/bad.jpg").touch()
    assert colorize.main(["--data_path", str(tmp_path / "data"), "--out_dir", str(tmp_path)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "too few pictures" in error
