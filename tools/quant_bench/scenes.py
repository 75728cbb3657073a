"""Segmentation: a Fashion-MNIST item in a random colour, somewhere on a piece of a photo.

Calibration takes items and photos that the network was trained on, evaluation others.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .images import idx
from .metrics import Array, iou
from .task import MissingError, Places, Task, package

SIDE = 64
FOREGROUND = 0.12  # of the item's own grey, 0 to 1
NOISE = 0.02
BATCH = 50  # the noise is drawn after so many scenes
SCENES = 500
TRAINING = ("brick", "coffee", "grass", "gravel", "chelsea", "motorcycle_left", "rocket", "ihc")
HELD_OUT = ("astronaut", "motorcycle_right", "hubble_deep_field")
PACKAGES = "Pillow scikit-image"


def photos(names: tuple[str, ...]) -> list[Array]:
    """Photos that scikit-image ships, uint8 [H,W,3]."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.origin:
        raise MissingError(f"needs scikit-image's photos: pip install {PACKAGES}")
    pillow, folder = package("PIL.Image", PACKAGES), Path(spec.origin).parent / "data"
    paths = [next(folder.glob(f"{name}.*g")) for name in names]
    return [np.array(pillow.open(path).convert("RGB"), np.uint8) for path in paths]


def scene(items: Array, pictures: list[Array], rng: np.random.Generator) -> tuple[Array, Array]:
    """One scene: float32 [64,64,3] in 0..1 and its mask float32 [64,64]."""
    pillow: Any = package("PIL.Image", PACKAGES)
    photo = pictures[rng.integers(len(pictures))]
    top, left = (rng.integers(int(n) - SIDE) for n in photo.shape[:2])
    image = (photo[top : top + SIDE, left : left + SIDE] / 255.0).astype(np.float32)
    side = int(rng.integers(28, 57))
    small = pillow.fromarray(items[rng.integers(len(items))])
    item: Array = np.asarray(small.resize((side, side), pillow.BILINEAR), np.float32) / 255
    top, left = (int(rng.integers(SIDE + 1 - side)) for _ in range(2))
    colour = rng.uniform(0.2, 1, 3)
    place, solid = np.s_[top : top + side, left : left + side], item > FOREGROUND
    image[place][solid] = (item[..., None] * colour)[solid]
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[place] = solid
    return image, mask


def batch(
    items: Array, pictures: list[Array], count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Scenes with the sensor's noise: float32 [count,3,64,64] around 0, masks [count,1,64,64]."""
    images, masks = zip(*(scene(items, pictures, rng) for _ in range(count)), strict=True)
    noise = rng.normal(0, NOISE, (count, 3, SIDE, SIDE))
    noisy = np.stack(images).transpose(0, 3, 1, 2) + noise
    return noisy.astype(np.float32) - np.float32(0.5), np.stack(masks)[:, None]


def batches(items: Array, names: tuple[str, ...], count: int, seed: int) -> tuple[Array, Array]:
    """Seeded scenes, drawn 50 at a time."""
    rng, pictures = np.random.default_rng(seed), photos(names)
    parts = [batch(items, pictures, BATCH, rng) for _ in range(-(-count // BATCH))]
    images, masks = (np.concatenate(p)[:count] for p in zip(*parts, strict=True))
    return images, masks


def foreground(logits: Array) -> Array:
    """Which pixels belong to the item."""
    return logits > 0


def segmentation(places: Places) -> Task:
    """A small U-Net."""
    path = places.model("unet_tiny_bn.onnx")
    train, test = (idx(places, f"{part}-images-idx3") for part in ("train", "t10k"))
    calibration, _ = batches(train, TRAINING, places.calibration, seed=1)
    images, masks = batches(test, HELD_OUT, places.evaluation or SCENES, seed=9)
    return Task(
        "unet_tiny_bn", "segmentation", "IoU", path, {"image": calibration}, {"image": images},
        partial(iou, masks=masks), foreground,
    )  # fmt: skip
