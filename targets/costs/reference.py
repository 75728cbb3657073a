"""Prices that are the same on every computer: from a machine's description and kept times.

The times are of kernels on one core of a server with AVX-512, at the end of a long model, so that
their weights had left the caches. What they reach of that server's roofline, similar kernels are
taken to reach of any machine's.
"""

from __future__ import annotations

from functools import cache

from graphopt.targets import machine
from graphopt.targets.costs.database import Row
from graphopt.targets.costs.model import Model
from graphopt.targets.machine import Machine
from graphopt.targets.roofline import described

SERVER = "avx512bf16"
FOOTPRINT = 40 << 20  # bytes between two runs of a kernel

# operations, bytes of activations, bytes of weights, microseconds
CONV = (
    (4751360, 131072, 9280, 28.0),  # 3x3, 16 channels, 32x32
    (4726784, 32768, 147712, 30.0),  # 64, 8x8
    (57903104, 401408, 147712, 331.0),  # 64, 28x28
    (231612416, 1605632, 147712, 1328.0),  # 64, 56x56
    (14463232, 125440, 147584, 90.0),  # 128 to 32, 14x14
    (57852928, 200704, 590336, 325.0),  # 128, 14x14
    (231311360, 401408, 2360320, 1280.0),  # 256, 14x14
    (31632832, 75264, 1291136, 201.0),  # 160 to 224, 7x7
)
WINOGRAD = (  # the same ones
    (1654784, 131072, 36928, 17.0),
    (1298432, 32768, 590080, 22.0),
    (15905792, 401408, 590080, 146.0),
    (63623168, 1605632, 590080, 531.0),
    (5284096, 125440, 589952, 67.0),
    (19809280, 200704, 2359808, 280.0),
    (77367296, 401408, 9438208, 1095.0),
    (10675648, 75264, 5161856, 322.0),
)


def reference_model(target: Machine) -> Model:
    """Prices on one core of a machine."""
    return Model(described(target), _learnt().points)


@cache
def _learnt() -> Model:
    model = Model(described(machine.load(SERVER)))
    for family, op, timed in (("conv", "conv", CONV), ("winograd", "conv_winograd", WINOGRAD)):
        for flops, data, weights, us in timed:
            row = Row("", family, op, "f32", flops, data, weights, us)
            model.learn(row, FOOTPRINT)
    return model
