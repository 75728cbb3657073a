"""The training loop and the settings that all recipes share."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def prepare(seed: int, threads: int) -> np.random.Generator:
    """Seed every source of randomness and return a generator for the data."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    random.seed(seed)
    return np.random.default_rng(seed)


def count_parameters(net: nn.Module) -> int:
    """Return how many values training adjusts."""
    return sum(parameter.numel() for parameter in net.parameters())


def fit(
    net: nn.Module,
    batches: Batches,
    loss: Loss,
    optimizer: Optimizer,
    schedule: LRScheduler,
    report_every: int = 100,
    half: bool = False,
) -> float:
    """Train on all batches, one scheduler step each, and leave the net in eval mode.

    `half`: convolutions and products run in bfloat16, weights stay float32.

    Returns:
        The seconds that training took.
    """
    start = time.monotonic()
    net.train()
    for step, (inputs, targets) in enumerate(batches, 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = net(inputs)
        value = loss(outputs.float(), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        if step % report_every == 0:
            seconds = time.monotonic() - start
            print(f"step {step}  loss {value.item():.4f}  {seconds:.0f} s", flush=True)
    net.eval()
    return time.monotonic() - start
