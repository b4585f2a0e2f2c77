import torch
from progress import LossMeter


def test_losses_are_reported_as_means_over_windows_and_none_is_lost():
    reader = LossMeter(torch.device("cpu"), window=3)
    printed = [reader.add(step, torch.tensor(float(step))) for step in range(1, 8)]
    assert [points for points in printed if points] == [[(3, 2.0)], [(6, 5.0)]]
    assert reader.flush() == [(7, 7.0)]
    assert reader.flush() == []
