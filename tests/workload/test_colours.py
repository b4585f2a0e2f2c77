import pytest
import torch
from colours import gray_copy, keep_luma, luma, to_batch
from data_utils import get_colorized_dataset_loader
from metrics import colourfulness, psnr, ssim
from PIL import Image


def test_gray_is_pillows_for_every_colour_there_is():
    steps = torch.arange(256, dtype=torch.uint8)
    cube = torch.cartesian_prod(steps, steps).view(1, 256, 256, 2)
    for red in range(256):
        colours = torch.cat([torch.full((1, 256, 256, 1), red, dtype=torch.uint8), cube], dim=3)
        gray, _ = to_batch(colours)
        picture = Image.fromarray(colours[0].numpy()).convert("L")
        expected = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        assert torch.equal(gray.view(-1), (expected.float() / 255 - 0.5) / 0.5)


def test_a_batch_is_channels_last_without_having_been_reordered():
    gray, colour = to_batch(torch.zeros(2, 8, 16, 3, dtype=torch.uint8))
    assert (gray.shape, colour.shape) == ((2, 1, 8, 16), (2, 3, 8, 16))
    assert colour.is_contiguous(memory_format=torch.channels_last)
    assert gray.is_contiguous(memory_format=torch.channels_last)


def test_colours_get_the_photos_own_brightness():
    torch.manual_seed(0)
    gray, truth = to_batch(torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8))
    shown = keep_luma(torch.rand(3, 3, 8, 8), gray)
    assert torch.allclose(luma(shown), gray * 0.5 + 0.5, atol=1e-6)
    assert torch.allclose(keep_luma(shown, gray), shown, atol=1e-6)
    # the truth is bright as its gray says, less what gray was rounded by
    assert (keep_luma(truth, gray) - truth).abs().max() <= 0.5 / 255 + 1e-6


def test_the_projection_never_moves_a_picture_away_from_the_truth():
    torch.manual_seed(1)
    _, truth = to_batch(torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8))
    exact = luma(truth) * 2 - 1
    guess = torch.rand(4, 3, 8, 8)
    # orthogonal only up to the weights' direction: compare where brightness alone is wrong
    bright = truth + 0.2
    assert psnr(keep_luma(bright, exact), truth).tolist() == [60.0] * 4
    assert torch.allclose(luma(keep_luma(guess, exact)), luma(truth), atol=1e-6)


def test_the_gray_copy_is_a_picture_not_clipped_at_gray(photos):
    gray, colour = next(iter(get_colorized_dataset_loader(photos, image_size=16, batch_size=24)))
    shown = gray_copy(gray)
    assert gray.min() < 0 < gray.max()
    assert shown.shape == colour.shape
    assert shown.min() >= 0 and shown.max() <= 1
    assert torch.allclose(shown.mean(dim=(1, 2, 3)), colour.mean(dim=(1, 2, 3)), atol=0.15)


def test_psnr_of_a_known_error():
    truth = torch.full((2, 3, 8, 8), 0.5)
    pictures = truth + torch.tensor([0.1, 0.0]).view(2, 1, 1, 1)
    assert psnr(pictures, truth).tolist() == pytest.approx([20.0, 60.0], abs=1e-3)
    assert psnr(torch.full_like(truth, 7.0), torch.ones_like(truth)).tolist() == [60.0, 60.0]


def test_ssim_against_its_formula_written_out_for_one_window():
    torch.manual_seed(2)
    x, y = torch.rand(1, 1, 11, 11).double(), torch.rand(1, 1, 11, 11).double()
    offsets = torch.arange(-5, 6).double()
    bell = torch.exp(-(offsets**2) / 4.5)
    window = torch.outer(bell, bell) / bell.sum() ** 2
    mean_x, mean_y = (x * window).sum(), (y * window).sum()
    var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
    cov = (window * (x - mean_x) * (y - mean_y)).sum()
    expected = (2 * mean_x * mean_y + 1e-4) * (2 * cov + 9e-4)
    expected /= (mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4)
    assert ssim(x, y).item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("side", [4, 8, 16, 24])
def test_ssim_of_a_picture_with_itself_is_1_at_any_size(side):
    picture = torch.rand(2, 3, side, side)
    assert ssim(picture, picture).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
    assert ssim(1 - picture, picture).max() < 0.5


def test_colourfulness_of_gray_is_0_and_of_one_colour_its_distance_from_gray():
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 1
    pictures = torch.cat([torch.full((1, 3, 4, 4), 0.3), red])
    # pure red: red-green 255, yellow-blue 127.5, no spread
    expected = 0.3 * (255**2 + 127.5**2) ** 0.5
    assert colourfulness(pictures).tolist() == pytest.approx([0.0, expected], abs=1e-3)
