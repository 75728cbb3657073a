"""Train the U-Net that separates clothes from procedural backgrounds.

Usage: python models/train/shapes.py --out models/
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import fashion
import numpy as np
import torch
from export import OPSET, export_onnx
from loop import count_parameters, fit, prepare
from manifest import Card, record, save_data
from nets.unet import UNet
from scenes import normalise, scenes
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

BATCH = 32
STEPS = 600
PEAK_RATE = 6e-3
SHIPPED, TEST = 60, 500
TEST_SEED = 9
DATA_FILE = "data/shapes.npz"
AXES = {"image": {0: "N", 2: "H", 3: "W"}, "mask": {0: "N", 2: "H", 3: "W"}}


def overlap_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return cross entropy plus the Dice loss over the batch."""
    entropy = functional.binary_cross_entropy_with_logits(logits, masks)
    probability = torch.sigmoid(logits)
    dice = (2 * (probability * masks).sum() + 1) / (probability.sum() + masks.sum() + 1)
    return entropy + 1 - dice


def batches(
    items: np.ndarray, steps: int, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield freshly drawn scenes and their masks."""
    for _ in range(steps):
        images, masks = scenes(items, BATCH, random)
        yield torch.from_numpy(normalise(images)), torch.from_numpy(masks).float()


def train(folder: Path, seed: int, threads: int) -> tuple[nn.Module, float]:
    """Return a trained net and the seconds that its training took."""
    random = prepare(seed, threads)
    items = fashion.load(folder, "train").images
    net = UNet().to(memory_format=torch.channels_last)  # faster on a CPU
    optimizer = AdamW(net.parameters(), lr=PEAK_RATE)
    schedule = OneCycleLR(optimizer, PEAK_RATE, total_steps=STEPS)
    seconds = fit(net, batches(items, STEPS, random), overlap_loss, optimizer, schedule, 50)
    return net.to(memory_format=torch.contiguous_format), seconds


def test_set(folder: Path) -> dict[str, np.ndarray]:
    """Return the held-out scenes: unseen items on unseen backgrounds."""
    items = fashion.load(folder, "t10k").images
    images, masks = scenes(items, TEST, np.random.default_rng(TEST_SEED))
    return {"image": normalise(images), "labels": masks}


def make(options: argparse.Namespace) -> None:
    """Train, export, measure and record the net."""
    net, seconds = train(options.data, options.seed, options.threads)
    full = test_set(options.data)
    save_data(options.out / DATA_FILE, {key: value[:SHIPPED] for key, value in full.items()})
    target = options.out / "shapes_unet.onnx"
    example = torch.from_numpy(full["image"][:1])
    export_onnx(net, example, target, AXES, keep_batch_norm=True)
    card = Card(
        name=target.stem,
        family="U-Net segmentation",
        source="train/shapes.py",
        data=DATA_FILE,
        data_licence=f"{fashion.DATA_LICENCE}; backgrounds Apache-2.0",
        metric="mean_iou",
        opset=OPSET,
        parameters=count_parameters(net),
        seed=options.seed,
        train_seconds=seconds,
    )
    record(card, options.out, full)


def main() -> None:
    """Parse the command line and make the net."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=fashion.DEFAULT_FOLDER)
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    make(parser.parse_args())


if __name__ == "__main__":
    main()
