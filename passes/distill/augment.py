"""Images made anew each time that they are seen: mirrored, shifted, mixed.

The original says what the answer to each is, so labels needn't stay true; images only have to look
like what the model will see. Arrays, not tensors: numpy's generator gives the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.core import Value
from graphopt.ir.types import Array, DType
from graphopt.spec import nearest

WAYS = ("flip", "shift", "mix")
SIDE = 16  # pixels that an image has at least
COLOURS = 4  # channels that it has at most
REACH = 8  # images move by up to a side's eighth


def check(ways: Sequence[str]) -> None:
    """Raise InputError unless every word is a way of augmentation."""
    for way in ways:
        if way not in WAYS:
            raise InputError(f"augment={way} is none of {', '.join(WAYS)}{nearest(way, WAYS)}")


def is_image(arg: Value) -> bool:
    """Whether an input is float32 [N, colours, H, W] of a fair size."""
    shape = arg.tensor.static
    return (
        shape is not None and len(shape) == 4 and arg.tensor.dtype is DType.f32
        and shape[1] <= COLOURS and min(shape[2:]) >= SIDE
    )  # fmt: skip


def augmented(
    batch: Sequence[Array], images: Sequence[bool], ways: Sequence[str], random: np.random.Generator
) -> list[Array]:
    """New inputs for some runs.

    Args:
        batch: an array [runs, ...] for each input.
        images: which inputs are images, [runs, N, C, H, W]; the others stay as they are.
        ways: `flip` mirrors every second one; `shift` moves by up to an eighth of each side, what
            is missing being the edge's; `mix` blends images with others of the batch (mixup, Zhang
            et al. 2018, arXiv 1710.09412, with uniform shares), where there is no other input.
        random: draws in a fixed order.
    """
    runs = len(batch[0])
    flips = random.random(runs) < 0.5 if "flip" in ways else np.zeros(runs, np.bool_)
    moves = random.uniform(-1, 1, (runs, 2)) if "shift" in ways else np.zeros((runs, 2))
    found = [_moved(x, flips, moves) if i else x for x, i in zip(batch, images, strict=True)]
    if "mix" in ways and all(images):
        share = random.random(runs).astype(np.float32)
        other = random.permutation(runs)
        found = [_mixed(x, x[other], share) for x in found]
    return found


def _moved(x: Array, flips: Array, moves: Array) -> Array:
    """Mirrored where `flips`; moved by `moves`, shares of the most."""
    h, w = x.shape[-2:]
    pixels: Array = np.rint(moves * np.array([h // REACH, w // REACH])).astype(np.int64)
    y = np.empty_like(x)
    for i, (down, right) in enumerate(pixels):
        rows, columns = _from(h, down), _from(w, right)
        y[i] = x[i][..., rows[:, None], columns[::-1] if flips[i] else columns]
    return y


def _from(size: int, by: int) -> Array:
    """Where the pixels of a moved side come from."""
    at: Array = np.arange(size) - by
    return at.clip(0, size - 1)


def _mixed(x: Array, other: Array, share: Array) -> Array:
    wide = share.reshape(-1, *(1,) * (x.ndim - 1))
    return x * wide + other * (1 - wide)
