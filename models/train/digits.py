"""Train the recognisers of spoken digits.

Usage: python models/train/digits.py dscnn bilstm --out models/
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from export import OPSET, export_onnx
from loop import count_parameters, fit, prepare
from manifest import Card, record, save_data
from mfcc import features
from nets.bilstm import BiLSTM
from nets.dscnn import DSCNN
from speech import DATA_LICENCE, synthesise
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

BATCH = 64
PEAK_RATE = 6e-3
REPEATS = 6
SHIPPED = 300
MAX_SHIFT = 4
NOISE = 0.1
DATA_FILE = "data/digits.npz"
AXES = {"mfcc": {0: "N"}, "logits": {0: "N"}}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """How one recogniser is built and trained."""

    family: str
    build: Callable[[], nn.Module]
    epochs: int


RECIPES = {
    "bilstm": Recipe("bidirectional LSTM", BiLSTM, 25),
    "dscnn": Recipe("depthwise-separable CNN, audio", DSCNN, 15),
}


def load(seed: int) -> tuple[Arrays, Arrays]:
    """Synthesise the recordings; return the training voices and, shuffled, the others."""
    recordings = synthesise(REPEATS, seed)
    mfcc, labels, held_out = features(recordings.waves), recordings.labels, recordings.held_out
    shuffled = np.random.default_rng(seed).permutation(np.flatnonzero(held_out))
    training = {"mfcc": mfcc[~held_out], "labels": labels[~held_out]}
    return training, {"mfcc": mfcc[shuffled], "labels": labels[shuffled]}


def augment(mfcc: Tensor, random: np.random.Generator) -> Tensor:
    """Shift a batch in time and add a little noise."""
    shift = int(random.integers(-MAX_SHIFT, MAX_SHIFT + 1))
    return torch.roll(mfcc, shift, 1) + NOISE * torch.randn_like(mfcc)


def batches(
    data: Arrays, epochs: int, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches, shuffled anew every epoch."""
    samples = len(data["labels"])
    for _ in range(epochs):
        order = random.permutation(samples)[: samples // BATCH * BATCH]
        for chosen in order.reshape(-1, BATCH):
            mfcc = torch.from_numpy(data["mfcc"][chosen])
            yield augment(mfcc, random), torch.from_numpy(data["labels"][chosen])


def train(recipe: Recipe, data: Arrays, seed: int, threads: int) -> tuple[nn.Module, float]:
    """Return a trained net and the seconds that its training took."""
    random = prepare(seed, threads)
    net = recipe.build()
    optimizer = AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=1e-3)
    steps = recipe.epochs * (len(data["labels"]) // BATCH)
    schedule = OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    loss = nn.CrossEntropyLoss()
    return net, fit(net, batches(data, recipe.epochs, random), loss, optimizer, schedule)


def make(name: str, training: Arrays, full: Arrays, options: argparse.Namespace) -> None:
    """Train, export, measure and record one recogniser."""
    recipe = RECIPES[name]
    net, seconds = train(recipe, training, options.seed, options.threads)
    target = options.out / f"digits_{name}.onnx"
    export_onnx(net, torch.from_numpy(full["mfcc"][:1]), target, AXES, keep_batch_norm=True)
    card = Card(
        name=target.stem,
        family=recipe.family,
        source=f"train/digits.py {name}",
        data=DATA_FILE,
        data_licence=DATA_LICENCE,
        metric="top1",
        opset=OPSET,
        parameters=count_parameters(net),
        seed=options.seed,
        train_seconds=seconds,
    )
    record(card, options.out, full)


def main() -> None:
    """Parse the command line and make the recognisers that it names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=sorted(RECIPES), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    training, full = load(options.seed)
    save_data(options.out / DATA_FILE, {key: value[:SHIPPED] for key, value in full.items()})
    for name in options.names:
        make(name, training, full, options)


if __name__ == "__main__":
    main()
