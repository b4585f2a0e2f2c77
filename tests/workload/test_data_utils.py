import shutil

import pytest
import torch
from data_utils import (
    DataError,
    ImageFolderGrayColor,
    colorization_dataset,
    get_colorized_dataset_loader,
    split_by_photo,
    take,
)
from PIL import Image
from torchvision import transforms


def test_a_batch_is_gray_around_zero_and_colour_from_0_to_1(photos):
    gray, colour = next(iter(get_colorized_dataset_loader(photos, image_size=16, batch_size=3)))
    assert (gray.shape, colour.shape) == ((3, 1, 16, 16), (3, 3, 16, 16))
    red, green, blue = colour.unbind(dim=1)
    luma = ((red * 19595 + green * 38470 + blue * 7471) * 255 + 0x8000).div(65536).floor() / 255
    assert torch.allclose(gray[:, 0] * 0.5 + 0.5, luma, atol=1e-6)
    assert gray.min() < 0
    assert colour.min() >= 0 and colour.max() <= 1


def test_the_course_size_is_the_default(photos):
    gray, colour = colorization_dataset(photos)[0]
    assert (gray.shape, colour.shape) == ((1, 224, 224), (3, 224, 224))


def test_without_transforms_the_photo_comes_back(photos):
    sample, target = ImageFolderGrayColor(photos)[0]
    assert sample.size == target.size == (30, 24)
    gray, target = ImageFolderGrayColor(photos, transform=transforms.ToTensor())[0]
    assert gray.shape == (3, 24, 30) and isinstance(target, Image.Image)


def test_what_macos_leaves_in_zips_is_no_photo(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "data")
    (tmp_path / "data/__MACOSX/field").mkdir(parents=True)
    (tmp_path / "data/__MACOSX/field/._0.jpg").write_bytes(b"\0\5\x16\7")
    (tmp_path / "data/__MACOSX/field/0.jpg").write_bytes(b"\0\5\x16\7")
    (tmp_path / "data/field/._0.jpg").write_bytes(b"\0\5\x16\7")
    (tmp_path / "data/nothing yet").mkdir()
    dataset = colorization_dataset(tmp_path / "data", 8)
    assert (dataset.classes, len(dataset), dataset.unreadable) == (["field", "ocean"], 24, [])


def test_unreadable_files_are_left_out_and_listed(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "data")
    whole = (photos / "field/3.jpg").read_bytes()
    (tmp_path / "data/field/3.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data/ocean/text.png").write_text("no picture")
    (tmp_path / "data/ocean/empty.jpg").touch()
    Image.new("CMYK", (9, 9)).save(tmp_path / "data/ocean/print.jpg")
    Image.new("L", (9, 9)).save(tmp_path / "data/ocean/gray.png")
    dataset = colorization_dataset(tmp_path / "data", 8)
    names = sorted(path.rpartition("/")[2] for path in dataset.unreadable)
    assert names == ["3.jpg", "empty.jpg", "text.png"]
    assert len(dataset) == len(dataset.targets) == 25
    assert {colour.shape for _, colour in dataset} == {(3, 8, 8)}


@pytest.mark.parametrize("made", ["missing", "empty", "a file", "no classes", "nothing readable"])
def test_a_folder_without_photos_is_one_clear_error(tmp_path, made):
    folder = tmp_path / "data"
    if made == "a file":
        folder.touch()
    elif made != "missing":
        folder.mkdir()
    if made == "no classes":
        Image.new("RGB", (9, 9)).save(folder / "photo.jpg")
    if made == "nothing readable":
        (folder / "city").mkdir()
        (folder / "city/photo.jpg").touch()
    with pytest.raises(DataError) as error:
        colorization_dataset(folder)
    assert str(folder) in str(error.value)
    if made != "nothing readable":
        assert "scripts/download_landscapes.sh" in str(error.value)


def test_crops_of_one_photo_are_never_on_both_sides(tmp_path):
    (tmp_path / "field").mkdir()
    for number in range(30):
        for crop in "abc":
            Image.new("RGB", (4, 4)).save(tmp_path / f"field/weather_rain{number}_{crop}.jpg")
    dataset = colorization_dataset(tmp_path, 8)
    training, validation = split_by_photo(dataset)
    assert sorted(training + validation) == list(range(90))
    assert len(validation) == 9

    def photos_of(indices):
        return {dataset.samples[index][0].rsplit("_", 1)[0] for index in indices}

    assert not photos_of(training) & photos_of(validation)


def test_the_split_does_not_depend_on_where_the_folder_is(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "elsewhere")
    here = split_by_photo(colorization_dataset(photos))
    assert here == split_by_photo(colorization_dataset(tmp_path / "elsewhere"))
    assert min(map(len, here)) == 2


def test_one_photo_cannot_be_split(tmp_path):
    (tmp_path / "field").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "field/only.jpg")
    with pytest.raises(DataError, match="one photo"):
        split_by_photo(colorization_dataset(tmp_path))


def test_a_choice_of_samples_is_repeatable():
    indices = list(range(100, 200))
    assert take(indices, None, 0) == take(indices, 100, 0) == take(indices, 999, 0) == indices
    assert take(indices, 7, 0) == take(indices, 7, 0) != take(indices, 7, 1)
    assert len(set(take(indices, 7, 0))) == 7
