import pytest
import torch
from colours import to_batch
from loader import PhotoLoader, augment


def numbered(count, side=8):
    """Photos that can be printed apart: number n has n as its first byte."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
    pixels[:, 0, 0] = torch.arange(count, dtype=torch.uint8).view(-1, 1)
    pixels[:, 0, -1] = torch.arange(count, dtype=torch.uint8).view(-1, 1)  # mirrored, too
    return pixels


def numbers(batches):
    """Which photos an epoch shows, batch by batch."""
    return [(truth[:, 0, 0, 0] * 255).round().int().tolist() for _, truth, _ in batches]


def test_without_shuffle_the_photos_come_as_they_are():
    pixels = numbered(5)
    batches = PhotoLoader(pixels, [4, 2, 0], 2)
    (gray, truth, weight), (_, last, _) = batches
    assert (len(batches), batches.photos, len(last), weight) == (2, 3, 1, 1.0)
    expected_gray, expected = to_batch(pixels[[4, 2]])
    assert torch.equal(truth, expected) and torch.equal(gray, expected_gray)


def test_every_photo_comes_once_in_an_order_that_changes_with_the_epoch():
    batches = PhotoLoader(numbered(20), range(20), 6, shuffle=True, seed=3)
    batches.set_epoch(1)
    first, again = numbers(batches), numbers(batches)
    batches.set_epoch(2)
    second = numbers(batches)
    assert first == again != second
    assert [len(batch) for batch in first] == [6, 6, 6, 2]
    for epoch in (first, second):
        assert sorted(number for batch in epoch for number in batch) == list(range(20))
    other_seed = PhotoLoader(numbered(20), range(20), 6, shuffle=True, seed=4)
    assert numbers(other_seed) != first


@pytest.mark.parametrize("crop", [0, 2])
def test_an_epoch_goes_on_in_its_middle_as_if_it_had_never_stopped(crop):
    batches = PhotoLoader(numbered(20), range(20), 6, shuffle=True, crop=crop)
    batches.set_epoch(5)
    whole = list(batches)
    batches.set_epoch(5, first_step=2)
    rest = list(batches)
    assert len(rest) == 2
    for (gray, truth, _), (gray_again, truth_again, _) in zip(whole[2:], rest, strict=True):
        assert torch.equal(gray, gray_again) and torch.equal(truth, truth_again)


def test_about_half_of_the_photos_are_mirrored_and_nothing_else_happens():
    pixels = numbered(200)
    batches = PhotoLoader(pixels, range(200), 50, shuffle=True)
    mirrored = 0
    for _, truth, _ in batches:
        for photo in truth:
            original = to_batch(pixels[[int((photo[0, 0, 0] * 255).round())]])[1][0]
            is_mirrored = torch.equal(photo, original.flip(2))
            assert is_mirrored or torch.equal(photo, original)
            mirrored += is_mirrored
    assert 60 < mirrored < 140


def test_a_moved_photo_is_a_crop_whose_outside_is_mirrored():
    photos = torch.arange(16, dtype=torch.uint8).view(1, 4, 4, 1).expand(-1, -1, -1, 3)
    still, down, left_mirrored = (
        augment(photos, torch.tensor([mirror]), torch.tensor([shift]))[0, :, :, 0].tolist()
        for mirror, shift in ((False, (0, 0)), (False, (1, 0)), (True, (0, -1)))
    )
    assert still == photos[0, :, :, 0].tolist()
    assert down == [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [8, 9, 10, 11]]
    assert left_mirrored[0] == [2, 1, 0, 1]


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_share_each_batch_and_weights_make_up_for_uneven_shares(processes):
    pixels = numbered(9)
    whole = PhotoLoader(pixels, range(9), 4, shuffle=True, crop=1)
    shares = [
        PhotoLoader(pixels, range(9), 4, shuffle=True, crop=1, rank=rank, world_size=processes)
        for rank in range(processes)
    ]
    for (_, truth, _), *parts in zip(whole, *shares, strict=True):
        mean = sum(part.mean() * weight for _, part, weight in parts) / processes
        assert mean.item() == pytest.approx(truth.mean().item(), abs=1e-6)
        seen = torch.cat([part for _, part, weight in parts if weight])
        assert sorted(seen.flatten(1).sum(1).tolist()) == pytest.approx(
            sorted(truth.flatten(1).sum(1).tolist()), rel=1e-6
        )
