"""Train the Fashion-MNIST classifiers.

Usage: python models/train/fmnist.py resnet8 mobilenetv2 vgg vit --out models/
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fashion
import numpy as np
import torch
from export import OPSET, export_onnx
from loop import count_parameters, fit, prepare
from manifest import Card, record, save_data
from nets.mobilenet import MobileNetV2
from nets.resnet import ResNet8
from nets.vgg import VGG
from nets.vit import VisionTransformer
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

BATCH = 128
SHIPPED = 1000
DATA_FILE = "data/fmnist.npz"
AXES = {"input": {0: "N"}, "logits": {0: "N"}}


@dataclass(frozen=True)
class Recipe:
    """How one classifier is built and trained.

    `shift` is the augmentation in pixels; `half`: trained in bfloat16, weights in float32.
    """

    family: str
    build: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], Optimizer]
    peak_rate: float
    epochs: int
    shift: int
    keep_batch_norm: bool
    half: bool = False


def sgd(net: nn.Module) -> Optimizer:
    """Return the optimizer of the convolutional nets."""
    return SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)


def adamw(net: nn.Module) -> Optimizer:
    """Return the optimizer of the transformer."""
    return AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)


RECIPES = {
    "resnet8": Recipe("residual CNN", ResNet8, sgd, 0.2, 6, 2, True),
    "mobilenetv2": Recipe("inverted residual CNN", MobileNetV2, sgd, 0.15, 7, 2, True),
    "vgg": Recipe("plain CNN", VGG, sgd, 0.05, 6, 2, True, half=True),
    "vit": Recipe("vision transformer", VisionTransformer, adamw, 2e-3, 7, 0, False),
}


def augment(images: Tensor, shift: int, random: np.random.Generator) -> Tensor:
    """Mirror a batch half of the time and shift it by up to `shift` pixels each way."""
    if random.random() < 0.5:
        images = images.flip(3)
    down, right = random.integers(-shift, shift + 1, size=2)
    return torch.roll(images, (int(down), int(right)), (2, 3))


def batches(
    split: fashion.Split, recipe: Recipe, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches of the training split, shuffled anew every epoch."""
    usable = len(split.labels) // BATCH * BATCH
    for _ in range(recipe.epochs):
        order = random.permutation(len(split.labels))[:usable]
        for chosen in order.reshape(-1, BATCH):
            images = torch.from_numpy(fashion.normalise(split.images[chosen]))
            yield augment(images, recipe.shift, random), torch.from_numpy(split.labels[chosen])


def train(recipe: Recipe, split: fashion.Split, seed: int, threads: int) -> tuple[nn.Module, float]:
    """Return a trained net and the seconds that its training took."""
    random = prepare(seed, threads)
    net = recipe.build().to(memory_format=torch.channels_last)  # faster on a CPU
    optimizer = recipe.optimizer(net)
    steps = recipe.epochs * (len(split.labels) // BATCH)
    schedule = OneCycleLR(optimizer, recipe.peak_rate, total_steps=steps)
    loss = nn.CrossEntropyLoss(label_smoothing=0.05)
    stream = batches(split, recipe, random)
    seconds = fit(net, stream, loss, optimizer, schedule, half=recipe.half)
    return net.to(memory_format=torch.contiguous_format), seconds


def make(name: str, options: argparse.Namespace) -> None:
    """Train, export, measure and record one classifier."""
    recipe = RECIPES[name]
    net, seconds = train(recipe, fashion.load(options.data, "train"), options.seed, options.threads)
    test = fashion.load(options.data, "t10k")
    full = {"input": fashion.normalise(test.images), "labels": test.labels}
    save_data(options.out / DATA_FILE, {key: value[:SHIPPED] for key, value in full.items()})
    target = options.out / f"fmnist_{name}.onnx"
    example = torch.from_numpy(full["input"][:1])
    export_onnx(net, example, target, AXES, recipe.keep_batch_norm)
    card = Card(
        name=target.stem,
        family=recipe.family,
        source=f"train/fmnist.py {name}",
        data=DATA_FILE,
        data_licence=fashion.DATA_LICENCE,
        metric="top1",
        opset=OPSET,
        parameters=count_parameters(net),
        seed=options.seed,
        train_seconds=seconds,
    )
    record(card, options.out, full)


def main() -> None:
    """Parse the command line and make the classifiers that it names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=sorted(RECIPES), metavar="NAME")
    parser.add_argument("--data", type=Path, default=fashion.DEFAULT_FOLDER)
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    for name in options.names:
        make(name, options)


if __name__ == "__main__":
    main()
