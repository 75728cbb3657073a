"""Synthetic segmentation scenes: a Fashion-MNIST item on a procedural background."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SIDE = 64
ITEM_SIDES = (28, 56)
FOREGROUND = 0.12
SENSOR_NOISE = 0.02

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]


def resize(image: Floats, side: int) -> Floats:
    """Scale a square image (side, side, ...) to another side, bilinearly."""
    for axis in (0, 1):
        length = image.shape[axis]
        centre = np.clip((np.arange(side) + 0.5) * length / side - 0.5, 0, length - 1)
        low = centre.astype(int)
        high = np.minimum(low + 1, length - 1)
        weight = (centre - low).reshape((-1, 1) if axis == 0 else (1, -1))
        weight = weight.reshape(weight.shape + (1,) * (image.ndim - 2))
        image = image.take(low, axis) * (1 - weight) + image.take(high, axis) * weight
    return image


def plane(random: np.random.Generator) -> Floats:
    """Return a coordinate that grows along a random direction, about -0.5 to 0.5."""
    angle = random.uniform(0, 2 * np.pi)
    axis = np.linspace(-0.5, 0.5, SIDE)
    return np.cos(angle) * axis[:, None] + np.sin(angle) * axis


def gradient(random: np.random.Generator) -> Floats:
    """Return a linear ramp."""
    return np.clip(plane(random) + 0.5, 0, 1)


def stripes(random: np.random.Generator) -> Floats:
    """Return sine stripes of a random direction, width and sharpness."""
    wave = np.sin(plane(random) * random.uniform(10, 80) + random.uniform(0, 6))
    return 0.5 + 0.5 * np.clip(wave * random.uniform(1, 6), -1, 1)


def checks(random: np.random.Generator) -> Floats:
    """Return a tilted chequerboard."""
    scale = random.uniform(3, 12)
    first, second = (np.floor(plane(random) * scale + random.random()) for _ in range(2))
    return (first + second) % 2


def rings(random: np.random.Generator) -> Floats:
    """Return concentric rings around a random centre."""
    row, column = random.uniform(-0.5, 1.5, size=2)
    axis = np.linspace(0, 1, SIDE)
    distance = np.hypot(axis[:, None] - row, axis - column)
    return 0.5 + 0.5 * np.sin(distance * random.uniform(10, 60))


def clouds(random: np.random.Generator) -> Floats:
    """Return value noise, summed over octaves."""
    roughness = random.uniform(0.4, 0.9)
    total = np.zeros((SIDE, SIDE))
    for octave, cells in enumerate((3, 6, 12, 24, 48)):
        total += roughness**octave * resize(random.random((cells, cells)), SIDE)
    return (total - total.min()) / (total.max() - total.min())


TEXTURES: tuple[Callable[[np.random.Generator], Floats], ...] = (
    gradient,
    stripes,
    checks,
    rings,
    clouds,
)


def background(random: np.random.Generator) -> Floats:
    """Return a background (side, side, 3): a texture between two colours, with clouds."""
    texture = TEXTURES[random.integers(len(TEXTURES))](random)[..., None]
    first, second = random.random((2, 3))
    shade = random.uniform(0, 0.4) * (clouds(random)[..., None] - 0.5)
    return np.clip(first + texture * (second - first) + shade, 0, 1)


def scene(item: Bytes, random: np.random.Generator) -> tuple[Bytes, Bytes]:
    """Place an item (28, 28) at a random size, place and colour.

    Returns:
        The image (3, side, side) and its mask (1, side, side) of zeros and ones.
    """
    side = int(random.integers(ITEM_SIDES[0], ITEM_SIDES[1] + 1))
    top, left = random.integers(SIDE - side + 1, size=2)
    window = (slice(top, top + side), slice(left, left + side))
    shape = resize(item / 255, side)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[window] = shape > FOREGROUND
    painted = np.zeros((SIDE, SIDE, 3))
    painted[window] = shape[..., None] * random.uniform(0.2, 1, size=3)
    image = np.where(mask[..., None] == 1, painted, background(random))
    image = np.clip(image + random.normal(0, SENSOR_NOISE, image.shape), 0, 1)
    return np.round(image * 255).astype(np.uint8).transpose(2, 0, 1), mask[None]


def scenes(items: Bytes, count: int, random: np.random.Generator) -> tuple[Bytes, Bytes]:
    """Return images and masks of scenes with items (samples, 1, 28, 28) picked at random."""
    chosen = items[random.integers(len(items), size=count), 0]
    pairs = [scene(item, random) for item in chosen]
    return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


def normalise(images: Bytes) -> NDArray[np.float32]:
    """Map bytes to the float32 values, -0.5 to 0.5, that the net is trained on."""
    return images.astype(np.float32) / np.float32(255) - np.float32(0.5)
