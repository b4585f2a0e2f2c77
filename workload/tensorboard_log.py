"""What TensorBoard shows of one training: two writers, one for training and one for testing."""

from pathlib import Path
from types import TracebackType

import torch
from image_grids import write_graph, write_images
from inference import Scores
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from unet import UNet


class TensorBoardLog:
    """Writers `train` and `test` in a run's folder, and the pictures that are watched.

    A training that goes on after `steps` steps replaces what an interrupted one wrote later.
    """

    def __init__(self, folder: Path, steps: int, image_size: int, drawn: type[UNet]) -> None:
        purge = steps + 1 if steps else None
        self.train = SummaryWriter(folder / "train", flush_secs=10, purge_step=purge)
        self.test = SummaryWriter(folder / "test", flush_secs=10, purge_step=purge)
        if not steps:
            write_graph(self.train, image_size, drawn)

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.train.close()
        self.test.close()

    def pictures(
        self, gray: torch.Tensor, ours: torch.Tensor, truth: torch.Tensor, step: int
    ) -> None:
        """Grids of what goes in, what comes out, and what was true."""
        write_images(self.train, gray, ours.cpu(), truth, step)

    def scores(self, scores: Scores, step: int) -> None:
        """A curve for each score, and those of the gray copy beside them."""
        for name, value in (
            ("validation PSNR", scores.psnr),
            ("validation PSNR, gray copy", scores.gray_psnr),
            ("validation SSIM", scores.ssim),
            ("validation SSIM, gray copy", scores.gray_ssim),
            ("validation colourfulness", scores.colourfulness),
        ):
            self.test.add_scalar(name, value, step)
        self.test.flush()

    def histograms(self, net: nn.Module, step: int) -> None:
        """How the weights of each layer are spread."""
        for name, weights in net.named_parameters():
            self.train.add_histogram(name, weights.detach().float().cpu(), step)
