"""The roofline that a machine's description promises: one core's, the same on every computer.

What is compiled may not depend on the computer that compiles, nor on how busy it is: decisions that
change the program are priced with this one, not with the measured.
"""

from __future__ import annotations

from graphopt.targets.machine import Machine
from graphopt.targets.roofline.model import Roofline

CLOCK = 2.8e9  # cycles a second, of a server with all its cores at work
PIPES = 2  # vector instructions a cycle
# Products of bytes in the time of one of float32.
BYTES = {"avx512_vnni": 4.0, "avx_vnni": 4.0, "amx_int8": 16.0, "asimddp": 4.0, "i8mm": 8.0}
HALVES = {"amx_bf16": 8.0}  # and of bfloat16, by tiles
FLOAT16 = {"asimdhp": 2.0}  # and of float16; elsewhere nothing computes in it
FIRST, SECOND, FAR = 320.0, 120.0, 28.0  # caches, and all beyond: 1e9 bytes a second


def described(machine: Machine) -> Roofline:
    """What one core of a machine can do: as its description says, else as servers' cores do."""
    peak = machine.peak_gflops or 1e-9 * CLOCK * PIPES * machine.lanes * (2 if machine.fma else 1)
    bytes_ = max((BYTES.get(f, 1.0) for f in machine.cpu_features), default=1.0)
    halves = max(machine.halves, 1.0, *(HALVES.get(f, 1.0) for f in machine.cpu_features))
    first, second = machine.l1_bytes, machine.l2_bytes
    near, within = (first * 2 // 3, FIRST), (first * 2, SECOND)
    rates = machine.bandwidth or (near, within, (second // 2, SECOND), (second * 2, FAR))
    peaks = {"f32": peak, "i8": bytes_ * peak, "bf16": halves * peak}
    if float16 := max(FLOAT16.get(f, 0.0) for f in ("", *machine.cpu_features)):
        peaks["f16"] = float16 * peak
    return Roofline(machine.name, 1, peaks, rates)
