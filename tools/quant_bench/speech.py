"""Spoken digits: MFCC features of words that a synthesizer spoke, held-out voices to evaluate on."""

from __future__ import annotations

from functools import partial

import numpy as np

from .metrics import top1
from .task import Places, Task

GET = "MFCC features float [N,49,10] as x, digits y, and test, which marks the held-out voices"


def digits(places: Places, name: str, family: str) -> Task:
    """Networks that tell ten spoken digits apart."""
    path = places.model(f"{name}.onnx")
    with np.load(places.file("espeak_digits_mfcc.npz", GET)) as file:
        x, y, test = file["x"].astype(np.float32), file["y"], file["test"]
    train, n = x[~test], places.evaluation
    chosen, _ = places.split(len(train))
    return Task(
        name, family, "top-1", path, {"mfcc": train[chosen]}, {"mfcc": x[test][:n]},
        partial(top1, labels=y[test][:n]),
    )  # fmt: skip
