"""What is compressed: tasks of bench_quant.py, with their samples kept apart from the test's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from quant_bench.images import cifar, fashion
from quant_bench.metrics import Array
from quant_bench.task import Feed, Places, Task

Make = Callable[[Places], Task]

TASKS: dict[str, Make] = {
    "cifar_resnet20_bn": partial(cifar, name="cifar_resnet20_bn"),
    "cifar_resnet56_bn": partial(cifar, name="cifar_resnet56_bn"),
    "mlperf_tiny_resnet8": partial(cifar, name="mlperf_tiny_resnet8"),
    "fmnist_resnet8": partial(fashion, name="fmnist_resnet8", family="residual CNN"),
    "fmnist_mobilenetv2": partial(
        fashion, name="fmnist_mobilenetv2", family="inverted residual CNN"
    ),
    "fmnist_mobilenetv2_wide": partial(
        fashion, name="fmnist_mobilenetv2_wide", family="inverted residual CNN"
    ),
    "fmnist_vgg": partial(fashion, name="fmnist_vgg", family="plain CNN"),
    "fmnist_vit": partial(fashion, name="fmnist_vit", family="vision transformer"),
}


def task(name: str, places: Places) -> Task:
    """A task whose calibration samples are none of those it is tested on.

    Raises:
        MissingError: its files aren't there.
    """
    found = TASKS[name](places)
    return replace(found, calibration=apart(found.calibration, found.inputs))


def apart(samples: Feed, tested: Feed) -> dict[str, Array]:
    """The samples that don't occur among others, to the bit: data sets do have such twins."""
    seen = set(_bytes(tested))
    kept = np.array([one not in seen for one in _bytes(samples)], bool)
    return {name: array[kept] for name, array in samples.items()}


def _bytes(samples: Feed) -> Iterator[bytes]:
    """Each sample as bytes."""
    arrays = [samples[name] for name in sorted(samples)]
    for one in zip(*arrays, strict=True):
        yield b"".join(a.tobytes() for a in one)
