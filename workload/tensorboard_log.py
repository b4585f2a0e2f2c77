"""What TensorBoard shows of a training: one writer for training and one for testing."""

from pathlib import Path
from types import TracebackType

import torch
from image_grids import write_graph, write_images
from inference import Scores
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from unet import UNet


class TensorBoardLog:
    """The writers `train` and `test` in a run's folder.

    A training that is resumed after `steps` steps replaces what was logged after them.
    """

    def __init__(self, folder: Path, steps: int, image_size: int, graph_class: type[UNet]) -> None:
        purge = steps + 1 if steps else None
        self.train = SummaryWriter(folder / "train", flush_secs=10, purge_step=purge)
        self.test = SummaryWriter(folder / "test", flush_secs=10, purge_step=purge)
        if not steps:
            write_graph(self.train, image_size, graph_class)

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.train.close()
        self.test.close()

    def log_images(
        self, gray: torch.Tensor, predicted: torch.Tensor, truth: torch.Tensor, step: int
    ) -> None:
        """Log grids of the input, the prediction and the truth, all (N, C, H, W)."""
        write_images(self.train, gray, predicted.cpu(), truth, step)

    def log_scores(self, scores: Scores, step: int) -> None:
        """Log a point of each score's curve, and of those of the gray copy."""
        for name, value in (
            ("validation PSNR", scores.psnr),
            ("validation PSNR, gray copy", scores.gray_psnr),
            ("validation SSIM", scores.ssim),
            ("validation SSIM, gray copy", scores.gray_ssim),
            ("validation colourfulness", scores.colourfulness),
        ):
            self.test.add_scalar(name, value, step)
        self.test.flush()

    def log_histograms(self, net: nn.Module, step: int) -> None:
        """Log how the weights of each layer are distributed."""
        for name, weights in net.named_parameters():
            self.train.add_histogram(name, weights.detach().float().cpu(), step)
