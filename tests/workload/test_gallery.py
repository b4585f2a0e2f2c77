import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import colorize
import pytest
import torch
from checkpoint import save_weights
from colours import to_batch
from fast_unet import FastUNet
from gallery import colour_picture, render_curve
from init_weights import init_as_gray_copy
from PIL import Image
from unet import UNet

NAMES = ['it\'s a "day" & <b>night.jpg', "schönes Tal.PNG", "sub folder/ünter.jpeg"]


def scene(width, height):
    """Sky over grass, with some texture."""
    torch.manual_seed(width)
    pixels = torch.randint(0, 40, (height, width, 3), dtype=torch.uint8)
    pixels[: height // 2] += torch.tensor([60, 120, 200], dtype=torch.uint8)
    pixels[height // 2 :] += torch.tensor([40, 140, 30], dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    net = UNet()
    init_as_gray_copy(net)
    save_weights(net, folder / "unet.pth")
    (folder / "history.json").write_text(
        json.dumps([{"loss": 0.02, "psnr": 22.5}, {"loss": 0.01, "psnr": 24.25}])
    )
    return folder / "unet.pth"


@pytest.fixture(scope="module")
def gallery(weights, tmp_path_factory):
    """A folder of pictures of all kinds, and what --images made of it."""
    base = tmp_path_factory.mktemp("gallery")
    images = base / "my images"
    (images / "sub folder").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        scene(50 + 30 * number, 40).save(images / name)
    scene(40, 40).convert("L").save(images / "gray.png")
    Image.new("RGB", (1, 1), "red").save(images / "tiny.png")
    scene(1100, 30).save(images / "wide.jpg")
    (images / "._tiny.png").write_bytes(b"\0\5\x16\7")
    (images / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (images / "notes.txt").write_text("no picture either")
    flags = ["--test_net", str(weights), "--images", str(images), "--out_dir", str(base / "out")]
    assert colorize.main(flags) == 0
    return base / "out"


class Page(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_every_readable_picture_is_coloured_in_its_own_size(gallery):
    sizes = {}
    for path in (gallery / "colorized").rglob("*.*"):
        with Image.open(path) as picture:
            assert picture.format == "JPEG" and picture.mode == "RGB"
            sizes[path.relative_to(gallery / "colorized").as_posix()] = picture.size
    assert sizes == {
        NAMES[0]: (50, 40),
        NAMES[1] + ".jpg": (80, 40),
        NAMES[2]: (110, 40),
        "gray.png.jpg": (40, 40),
        "tiny.png.jpg": (1, 1),
        "wide.jpg": (1100, 30),
    }


def test_the_page_needs_nothing_but_itself(gallery):
    text = (gallery / "colorized.html").read_text()
    page = Page(text)
    sources = [attrs[name] for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert len(sources) > 12
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r"https?:|url\(|@import", re.sub(r'"data:[^"]*"', "", text))


def test_the_page_runs_no_script_but_its_own(gallery):
    text = (gallery / "colorized.html").read_text()
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (
        attrs["content"]
        for tag, attrs in Page(text).tags
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert (
        policy.split()
        == (
            "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
            f" script-src 'sha256-{digest}'"
        ).split()
    )


def test_the_page_has_a_slider_scores_and_curves(gallery):
    page = Page((gallery / "colorized.html").read_text())
    assert sum(attrs.get("type") == "range" for _, attrs in page.tags) == 6
    assert all(name in page.text for name in NAMES)
    assert sum(tag == "b" for tag, _ in page.tags) == 6, "names are text, not tags"
    captions = page.text.splitlines()
    (valley,) = (line for line in captions if line.startswith("schönes Tal.PNG"))
    assert re.search(
        r"PSNR [\d.]+ dB \(gray [\d.]+\), SSIM .* colourfulness \d+ \(truth \d+\)", valley
    )
    (gray,) = (line for line in captions if line.startswith("gray.png"))
    assert "PSNR" not in gray, "nobody knows its colours"
    assert "training loss: 0.0200 → 0.0100" in page.text
    assert "validation PSNR, dB: 22.50 → 24.25" in page.text


def test_a_coloured_picture_is_exactly_as_bright_as_the_photo(weights):
    net = FastUNet()
    init_as_gray_copy(net)
    photo = scene(61, 47).convert("L").convert("RGB")  # gray: nothing needs to be clipped
    picture, result = colour_picture(net, photo, "name", None)
    ours, _ = to_batch(torch.tensor(list(picture.tobytes()), dtype=torch.uint8).view(1, 47, 61, 3))
    truth, _ = to_batch(torch.tensor(list(photo.tobytes()), dtype=torch.uint8).view(1, 47, 61, 3))
    assert ((ours - truth).abs() * 127.5).max() <= 1.001  # gray levels: three roundings to bytes
    assert result.scores == "" and len(result.pictures) == 2


def test_what_cannot_be_read_is_counted_and_named(gallery, weights, tmp_path, capsys):
    (tmp_path / "one.jpg").write_bytes(b"")
    scene(20, 20).save(tmp_path / "two.jpg")
    flags = ["--test_net", str(weights), "--images", str(tmp_path), "--out_dir", str(tmp_path)]
    assert colorize.main(flags) == 0
    assert "Coloured 1 pictures" in (printed := capsys.readouterr().out)
    assert "Left out 1 unreadable: one.jpg (" in printed


def test_what_was_coloured_before_is_not_coloured_again(weights, tmp_path, capsys):
    scene(20, 20).save(tmp_path / "one.jpg")
    flags = ["--test_net", str(weights), "--images", str(tmp_path), "--out_dir", str(tmp_path)]
    for _ in range(2):
        assert colorize.main(flags) == 0
        assert "Coloured 1 pictures" in capsys.readouterr().out


def test_a_picture_too_long_for_a_jpeg_does_not_keep_the_others(weights, tmp_path, capsys):
    Image.new("RGB", (65501, 1)).save(tmp_path / "long.png")
    scene(20, 20).save(tmp_path / "two.jpg")
    flags = ["--test_net", str(weights), "--images", str(tmp_path), "--out_dir", str(tmp_path)]
    assert colorize.main(flags) == 0
    printed = capsys.readouterr().out
    assert "Coloured 1 pictures" in printed and "long.png (longer than a JPEG's 65500" in printed


@pytest.mark.parametrize("made", ["missing", "a file", "empty", "unreadable"])
def test_nothing_to_colour_is_one_sentence(weights, tmp_path, capsys, made):
    if made == "a file":
        (tmp_path / "images").touch()
    elif made != "missing":
        (tmp_path / "images").mkdir()
    if made == "unreadable":
        (tmp_path / "images/a.jpg").touch()
    flags = ["--test_net", str(weights), "--images", str(tmp_path / "images")]
    assert colorize.main([*flags, "--out_dir", str(tmp_path / "out")]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "images") in error
    assert not (tmp_path / "out/colorized.html").exists()


def test_without_images_the_validation_photos_are_scored(photos, weights, tmp_path, capsys):
    flags = ["--test_net", str(weights), "--data_path", str(photos), "--image_size", "16"]
    assert colorize.main([*flags, "--out_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"2 photos: validation PSNR [\d.]+ dB \(gray copy [\d.]+ dB\)", printed)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_net_is_one_sentence(tmp_path, capsys):
    assert colorize.main(["--test_net", str(tmp_path / "no.pth"), "--images", str(tmp_path)]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_a_curve_needs_two_points():
    assert render_curve("loss", [1.0], "{}") == render_curve("loss", [], "{}") == ""
    assert "polyline" in render_curve("loss", [1.0, 1.0], "{}")
