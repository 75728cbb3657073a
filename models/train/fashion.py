"""Fashion-MNIST, read from the idx files of the Debian package dataset-fashion-mnist."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DATA_LICENCE = "MIT (Fashion-MNIST, Copyright 2017 Zalando SE)"
MEAN, STD = 0.286, 0.353
IMAGE_HEADER, LABEL_HEADER = 16, 8


@dataclass(frozen=True)
class Split:
    """One split: images (samples, 1, 28, 28) uint8 and labels (samples,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_idx(path: Path, header: int) -> NDArray[np.uint8]:
    """Return the payload of a gzipped idx file of bytes as a flat array."""
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=header)


def load(folder: Path, prefix: str) -> Split:
    """Load a split.

    Args:
        folder: where the idx files are.
        prefix: `train` (60,000 samples) or `t10k` (10,000 samples).
    """
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", IMAGE_HEADER)
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", LABEL_HEADER)
    return Split(images.reshape(-1, 1, 28, 28), labels.astype(np.int64))


def normalise(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Map bytes to the float32 values that the classifiers are trained on."""
    scaled = images.astype(np.float32) / np.float32(255)
    return (scaled - np.float32(MEAN)) / np.float32(STD)
