"""A training step, and how long it takes on this machine just now."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from budget import StepCost, time_step
from inference import autocast_dtype, predict, validate
from models import create_net
from options import TrainConfig
from torch import nn


def train_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: Sequence[Any],
    dtype: torch.dtype | None,
) -> torch.Tensor:
    """Take a step on a batch (gray, truth) or (gray, truth, weight of its loss); return its loss.

    The loss is a scalar that stays on the device.
    """
    gray, truth, *weight = batch
    loss = F.mse_loss(predict(net, gray, dtype), truth)
    optimizer.zero_grad()
    scaler.scale(loss * weight[0] if weight else loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss.detach()


def create_optimizer(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Create the optimizer that the flags ask for."""
    return torch.optim.AdamW(
        net.parameters(),
        config.lr,
        (config.momentum, 0.999),
        weight_decay=config.weight_decay,
        fused=next(net.parameters()).device.type == "cuda",
    )


def measure_step(
    config: TrainConfig, device: torch.device, batch_size: int, image_size: int
) -> StepCost:
    """Measure the steps of a fresh net on pictures of noise.

    `batch_size` is this process's share of a batch, and `image_size` is in pixels.
    """
    dtype = autocast_dtype(device, config.precision)
    net = create_net(config.model).to(device, memory_format=torch.channels_last)
    optimizer = create_optimizer(net, config)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    gray, truth = (
        torch.rand(batch_size, channels, image_size, image_size, device=device).contiguous(
            memory_format=torch.channels_last
        )
        for channels in (1, 3)
    )

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    net.train()
    train_s = time_step(lambda: train_step(net, optimizer, scaler, (gray, truth), dtype), wait)
    return StepCost(train_s, time_step(lambda: validate(net, [(gray, truth)], dtype), wait))
