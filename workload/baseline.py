"""The course's training, as slow as it was: the baseline of the ratios in scripts/bench.

Pillow decodes each photo and resizes it twice in every epoch, four processes load, everything is
float32, the loss is read back after every step. Only its crashes are fixed: it runs without a GPU,
the graph gets an input to be traced with, and the weights are saved before it.
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from data_utils import get_colorized_dataset_loader
from image_grids import write_graph, write_images
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from unet import UNet


def train(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    epochs: int = 5,
    writer: SummaryWriter | None = None,
) -> float:
    """Minimise the squared error; returns the mean loss of the last epoch."""
    device = next(net.parameters()).device
    step = 0
    mean_loss = float("nan")
    net.train()
    for epoch in range(epochs):
        start, count, losses = time.perf_counter(), 0, []
        for x, target in loader:
            x, target = x.to(device), target.to(device)
            optimizer.zero_grad()
            out = net(x)
            loss = F.mse_loss(out, target)
            loss.backward()
            optimizer.step()

            step += 1
            count += len(x)
            losses.append(loss.item())
            if writer is not None:
                writer.add_scalar("training loss", losses[-1], step)
        mean_loss = sum(losses) / len(losses)
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}/{epochs}: loss {mean_loss:.4f}, {count / seconds:.1f} images/s")
        if writer is not None:
            write_images(writer, x[:16].cpu(), out[:16].detach().cpu(), target[:16].cpu(), step)
    return mean_loss


def main() -> None:
    """Train as the course does, and save unet.pth."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data_path", type=Path, default=Path("data/landscapes"))
    parser.add_argument("--out_dir", type=Path, default=Path())
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--image_size", type=int, default=224)
    arguments = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = get_colorized_dataset_loader(
        arguments.data_path,
        arguments.image_size,
        batch_size=arguments.batch_size,
        shuffle=True,
        num_workers=4,
    )
    net = UNet().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=arguments.lr)
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    with SummaryWriter(arguments.out_dir / "runs" / "naive") as writer:
        train(net, optimizer, loader, arguments.epochs, writer)
        torch.save(net.state_dict(), arguments.out_dir / "unet.pth")
        write_graph(writer, arguments.image_size)


if __name__ == "__main__":
    main()
