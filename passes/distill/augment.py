"""Images made anew each time that they are seen: mirrored, shifted, mixed, pasted together.

The original says what the answer to each is, so labels needn't stay true; images only have to look
like what the model will see. Arrays, not tensors: numpy's generator gives the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.core import Value
from graphopt.ir.types import Array, DType
from graphopt.spec import nearest

WAYS = ("flip", "shift", "mix", "cut")
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
            et al. 2018, arXiv 1710.09412, with uniform shares), `cut` pastes a rectangle of another
            one in (CutMix, Yun et al. 2019, arXiv 1905.04899), both where there is no other input;
            of the two each image gets one.
        random: draws in a fixed order.
    """
    runs = len(batch[0])
    flips = random.random(runs) < 0.5 if "flip" in ways else np.zeros(runs, np.bool_)
    moves = random.uniform(-1, 1, (runs, 2)) if "shift" in ways else np.zeros((runs, 2))
    found = [_moved(x, flips, moves) if i else x for x, i in zip(batch, images, strict=True)]
    if {"mix", "cut"} & set(ways) and all(images):
        draw = _Draw.of(ways, random, runs)
        found = [_blended(x, draw) for x in found]
    return found


@dataclass(frozen=True)
class _Draw:
    """How images are blended: with which others, how much of their own stays, by which way.

    `cut`: which get a rectangle, at a place between the first (0) and the last (1) possible.
    """

    other: Array
    share: Array
    cut: Array
    place: Array

    @staticmethod
    def of(ways: Sequence[str], random: np.random.Generator, runs: int) -> _Draw:
        """Drawn for some runs."""
        part = 0.5 if {"mix", "cut"} <= set(ways) else float("cut" in ways)
        other, share = random.permutation(runs), random.random(runs)
        return _Draw(other, share, random.random(runs) < part, random.random((runs, 2)))


def _blended(x: Array, draw: _Draw) -> Array:
    """Images with parts of others; a rectangle has the area that is missing from the share."""
    other, share = x[draw.other], draw.share.astype(np.float32)
    share = np.where(draw.cut, 1, share).reshape(-1, *(1,) * (x.ndim - 1)).astype(np.float32)
    y: Array = x * share + other * (1 - share)
    whole = np.array(x.shape[-2:])
    sides = np.rint(np.sqrt(1 - draw.share)[:, None] * whole).astype(np.int64)
    starts = np.rint(draw.place * (whole - sides)).astype(np.int64)
    for i in np.flatnonzero(draw.cut):
        (top, left), (high, wide) = starts[i], sides[i]
        y[i, ..., top : top + high, left : left + wide] = (
            other[i, ..., top : top + high, left : left + wide]
        )  # fmt: skip
    return y


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
