"""Image classification: CIFAR-10 and Fashion-MNIST."""

from __future__ import annotations

import gzip
from functools import partial

import numpy as np

from .metrics import Array, top1
from .task import Places, Task

CIFAR_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
CIFAR_STD = np.array((0.229, 0.224, 0.225), np.float32)
FASHION_MEAN, FASHION_STD = 0.286, 0.353
GET_CIFAR = "CIFAR-10's lossless images as uint8 NHWC, keys train_x, train_y, test_x, test_y"
GET_FASHION = "apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb DIR"


def nchw(pixels: Array) -> Array:
    """Normalized by ImageNet's statistics: uint8 [N,H,W,3] to float32 [N,3,H,W]."""
    scaled = (pixels.astype(np.float32) / 255 - CIFAR_MEAN) / CIFAR_STD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def as_it_is(pixels: Array) -> Array:
    """0 to 255: uint8 to float32."""
    return pixels.astype(np.float32)


def grey(pixels: Array) -> Array:
    """Normalized by Fashion-MNIST's statistics: uint8 [N,28,28] to float32 [N,1,28,28]."""
    return (pixels[:, None].astype(np.float32) / 255 - FASHION_MEAN) / FASHION_STD


def cifar(places: Places, name: str) -> Task:
    """CIFAR-10 networks; those of MLPerf Tiny take NHWC, 0 to 255."""
    tiny = name.startswith("mlperf")
    path = places.model(f"{name}.onnx")
    with np.load(places.file("cifar10.npz", GET_CIFAR)) as file:
        train, test = ((file[f"{part}_x"], file[f"{part}_y"]) for part in ("train", "test"))
    chosen, rest = places.split(len(train[0]))
    images, labels = places.evaluated(rest, train, test)
    key, prepare = ("t0", as_it_is) if tiny else ("input", nchw)
    return Task(
        name, "residual CNN", "top-1", path,
        {key: prepare(train[0][chosen])}, {key: prepare(images)}, partial(top1, labels=labels),
    )  # fmt: skip


def idx(places: Places, name: str) -> Array:
    """Fashion-MNIST's images uint8 [N,28,28] or labels uint8 [N], from a gzipped idx file."""
    raw = gzip.decompress(places.file(f"{name}-ubyte.gz", GET_FASHION).read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def fashion(places: Places, name: str, family: str) -> Task:
    """Fashion-MNIST networks."""
    path = places.model(f"{name}.onnx")
    train, test = (
        (idx(places, f"{part}-images-idx3"), idx(places, f"{part}-labels-idx1"))
        for part in ("train", "t10k")
    )
    chosen, rest = places.split(len(train[0]))
    images, labels = places.evaluated(rest, train, test)
    return Task(
        name, family, "top-1", path, {"input": grey(train[0][chosen])}, {"input": grey(images)},
        partial(top1, labels=labels), transformer="transformer" in family,
    )  # fmt: skip
