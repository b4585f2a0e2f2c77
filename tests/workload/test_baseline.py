import baseline
import torch
from data_utils import get_colorized_dataset_loader
from unet import UNet

from tests.workload.programs import run


def test_the_courses_script_trains_and_saves(photos, tmp_path):
    flags = ["--data_path", str(photos), "--out_dir", str(tmp_path), "--epochs", "1"]
    done = run(["baseline.py", *flags, "--image_size", "16"])
    assert done.returncode == 0, done.stderr  # it warns where its four loaders are too many
    UNet().load_state_dict(torch.load(tmp_path / "unet.pth", weights_only=True))
    assert done.stdout.startswith("epoch 1/1: loss ")


def test_its_training_is_the_courses_arithmetic(photos):
    """Two steps by hand: Adam on the squared error, in float32, nothing else."""
    loader = get_colorized_dataset_loader(photos, image_size=8, batch_size=12)
    torch.manual_seed(0)
    trained, by_hand = UNet(), UNet()
    by_hand.load_state_dict(trained.state_dict())
    baseline.train(trained, torch.optim.Adam(trained.parameters(), lr=1e-3), loader, epochs=1)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-3)
    for gray, truth in loader:
        optimizer.zero_grad()
        ((by_hand(gray) - truth) ** 2).mean().backward()
        optimizer.step()
    for one, other in zip(trained.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
