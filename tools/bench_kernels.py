# pyright: basic
# TVM ships no types.
"""Measure the kernels of common networks against ONNX Runtime's on the same single op.

    python tools/bench_kernels.py [--threads 1,2] [--only WORD] [--rounds 30]

Interleaved: every round times each side once (a few calls, the best of them), so that a noisy
machine is noisy for both. ONNX Runtime works on dense tensors it may have to reorder at the ends of
a single op, which a whole network does not pay; its ratio on single small ops flatters us.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """One op: a conv (kernel 0: a product of `size` rows), with relu."""

    model: str
    ins: int
    outs: int
    size: int
    kernel: int
    stride: int = 1
    group: int = 1

    @property
    def out(self) -> int:
        """The result's height and width."""
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        if not self.kernel:
            return 2 * self.size * self.ins * self.outs
        return 2 * self.outs * self.ins // self.group * (self.kernel * self.out) ** 2


CASES = [
    Case("resnet50", 3, 64, 224, 7, 2), Case("resnet50", 64, 64, 56, 1),
    Case("resnet50", 64, 64, 56, 3),
    Case("resnet50", 64, 256, 56, 1), Case("resnet50", 256, 64, 56, 1),
    Case("resnet50", 256, 512, 56, 1, 2),
    Case("resnet50", 128, 128, 56, 3, 2), Case("resnet50", 128, 128, 28, 3),
    Case("resnet50", 128, 512, 28, 1), Case("resnet50", 512, 128, 28, 1),
    Case("resnet50", 256, 256, 14, 3), Case("resnet50", 256, 1024, 14, 1),
    Case("resnet50", 1024, 256, 14, 1), Case("resnet50", 512, 512, 7, 3),
    Case("resnet50", 512, 2048, 7, 1), Case("resnet50", 2048, 512, 7, 1),
    Case("resnet50", 2048, 1000, 1, 0),
    Case("mobilenetv2", 3, 32, 224, 3, 2), Case("mobilenetv2", 32, 32, 112, 3, 1, 32),
    Case("mobilenetv2", 16, 96, 112, 1), Case("mobilenetv2", 96, 96, 112, 3, 2, 96),
    Case("mobilenetv2", 144, 144, 56, 3, 1, 144), Case("mobilenetv2", 144, 24, 56, 1),
    Case("mobilenetv2", 384, 384, 14, 3, 1, 384), Case("mobilenetv2", 384, 64, 14, 1),
    Case("mobilenetv2", 960, 960, 7, 3, 1, 960), Case("mobilenetv2", 160, 960, 7, 1),
    Case("mobilenetv2", 320, 1280, 7, 1),
    Case("cifar", 3, 16, 32, 3), Case("cifar", 16, 16, 32, 3), Case("cifar", 32, 32, 16, 3),
    Case("cifar", 64, 64, 8, 3), Case("cifar", 16, 32, 32, 3, 2),
    Case("vit", 768, 768, 197, 0), Case("vit", 768, 3072, 197, 0),
]  # fmt: skip


def region(c: Case, b: int) -> str:
    """The kernel's IR text, in the layouts that the layout pass would choose."""
    if not c.kernel:
        return f"""graph @k(%x: f32[{c.size},{c.ins}], %w: f32[{c.ins},{c.outs}:Ba{b}b],
                   %b: f32[{c.outs}]) {{
          %c = gemm(%x, %w, %b) : f32[{c.size},{c.outs}]
          %y = relu(%c) : f32[{c.size},{c.outs}]
          return(%y) }}"""
    first = c.ins < 8
    wide = c.group > 1
    tag = f"Abcd{b}a" if first or wide else f"ABcd{b}b{b}a"
    t, p = f"f32[1,{c.outs},{c.out},{c.out}:aBcd{b}b]", c.kernel // 2
    return f"""graph @k(%x: f32[1,{c.ins},{c.size},{c.size}{"" if first else f":aBcd{b}b"}],
               %w: f32[{c.outs},{c.ins // c.group},{c.kernel},{c.kernel}:{tag}],
               %b: f32[{c.outs}:A{b}a]) {{
      %c = conv(%x, %w, %b) {{strides=[{c.stride},{c.stride}],pads=[{p},{p},{p},{p}],
                              dilations=[1,1],group={c.group}}} : {t}
      %y = relu(%c) : {t}
      return(%y) }}"""


def ours(c: Case, name: str):
    """A function that runs our kernel once."""
    import tvm

    from graphopt.ir.layout import pack
    from graphopt.ir.parser import parse
    from graphopt.targets import machine
    from graphopt.targets.tvm import build

    m = machine.load(name)
    graph = parse(region(c, max(m.lanes, 8))).main
    kernel = build.compile_module({"k": build.primfunc(graph, m, "k")}, m)["k"]
    rng = np.random.default_rng(0)
    types = [v.tensor for v in (*graph.args, *graph.outputs)]
    arrays = [pack(rng.standard_normal(t.static).astype(np.float32), t.layout) for t in types]
    tensors = [tvm.runtime.tensor(a) for a in arrays]
    return lambda: kernel(*tensors)


def theirs(c: Case, threads: int):
    """A function that runs ONNX Runtime once, its result in a bound buffer."""
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    shape = [1, c.ins, c.size, c.size] if c.kernel else [c.size, c.ins]
    wshape = (c.outs, c.ins // c.group, c.kernel, c.kernel) if c.kernel else (c.ins, c.outs)
    w = numpy_helper.from_array(rng.standard_normal(wshape).astype(np.float32), "w")
    b = numpy_helper.from_array(rng.standard_normal(c.outs).astype(np.float32), "b")
    attrs = {"pads": [c.kernel // 2] * 4, "strides": [c.stride] * 2, "group": c.group}
    attrs = attrs if c.kernel else {}
    nodes = [helper.make_node("Conv" if c.kernel else "Gemm", ["x", "w", "b"], ["c"], **attrs),
             helper.make_node("Relu", ["c"], ["y"])]  # fmt: skip
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, shape)],
                              [helper.make_tensor_value_info("y", 1, None)], [w, b])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    provider = ["CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=provider)
    binding = session.io_binding()
    binding.bind_cpu_input("x", rng.standard_normal(shape).astype(np.float32))
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)


def measure(sides: list, rounds: int) -> list[float]:
    """The best time of each side in seconds, interleaved."""
    best = [1e9] * len(sides)
    for _ in range(rounds):
        for i, side in enumerate(sides):
            for _ in range(3):
                start = time.perf_counter()
                side()
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def table(threads: int, only: str, rounds: int) -> None:
    """Print one line a case."""
    from graphopt.targets.machine import detect

    name = detect().name
    print(f"{name}, {threads} threads: ours ms, GFLOP/s | ONNX Runtime ms | theirs / ours")
    ratios = []
    for c in CASES:
        label = f"{c.model} {c.ins}->{c.outs} {c.size} k{c.kernel} s{c.stride} g{c.group}"
        if only not in label:
            continue
        a, b = measure([ours(c, name), theirs(c, threads)], rounds)
        ratios.append(b / a)
        speed = c.flops / a / 1e9
        print(f"  {label:38} {a * 1e3:8.4f} {speed:6.0f} | {b * 1e3:8.4f} | {b / a:5.2f}")
    print(f"  geometric mean {np.exp(np.mean(np.log(ratios))):.2f}, least {min(ratios):.2f}")


def main() -> None:
    """Run one process a thread count: TVM's pool is fixed when it starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    if "," not in args.threads:
        table(int(args.threads), args.only, args.rounds)
        return
    for n in args.threads.split(","):
        command = [sys.executable, __file__, "--threads", n, "--only", args.only,
                   "--rounds", str(args.rounds)]  # fmt: skip
        subprocess.run(command, env={**os.environ, "TVM_NUM_THREADS": n}, check=True)


if __name__ == "__main__":
    main()
