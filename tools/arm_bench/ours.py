"""A model compiled for an ARM CPU, and what one run of it executes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphopt
from graphopt.runtime.manifest import Manifest
from graphopt.targets.arm import Arm
from graphopt.targets.base import Build
from graphopt.targets.bundle import ARCHIVE, LIBRARY
from graphopt.targets.driver.toolchain import STATIC_FLAGS, run
from graphopt.targets.emulator import qemu
from graphopt.targets.emulator.artifact import Artifact
from graphopt.targets.emulator.count import Block, Count, listed, tally

PASSES = {"fp32": "default", "int8": "default,calibrate,quantize"}
GETPGID = 155  # the system call's number on aarch64: marks what counts
MARKED = """\
#include "model.h"
#include <unistd.h>

/* The second run of two, between marks. */
int marked_run({p}_ctx *ctx, const void *const *inputs, void *const *outputs) {{
  int code = {p}_run(ctx, inputs, outputs);
  getpgid(0);
  if (!code) code = {p}_run(ctx, inputs, outputs);
  getpgid(0);
  return code;
}}
"""


@dataclass(frozen=True)
class Ours:
    """A bundle's program, the blocks of one run, and the counts by kernel ("": the driver)."""

    program: Artifact
    blocks: list[Block]
    counts: Mapping[str, Count]
    outputs: list[Any]

    @property
    def total(self) -> int:
        """Instructions of the run."""
        return sum(c.instructions for c in self.counts.values())

    @property
    def cycles(self) -> float:
        """The estimate's cycles, of the kernels."""
        return sum(c.cycles for c in self.counts.values())

    def families(self) -> dict[str, tuple[int, int, int]]:
        """Layers, multiply-adds and instructions by family of kernels."""
        layers = self.program.manifest.layers
        calls, found = Counter(layer.kernel for layer in layers), dict[str, tuple[int, int, int]]()
        for layer in layers:
            n, macs, executed = found.get(layer.family, (0, 0, 0))
            share = self.counts.get(layer.kernel, Count()).instructions // calls[layer.kernel]
            found[layer.family] = n + 1, macs + layer.macs, executed + share
        return found


def build(model: Path, cpu: str, kind: str, data: Path, out: Path, check: bool = True) -> Path:
    """Compile a model, `fp32` or `int8` (ranges from `data`); verified under qemu.

    Raises:
        GraphoptError: it can't be compiled, or computes something else.
    """
    result = graphopt.optimize(
        str(model), f"arm:{cpu}", PASSES[kind], str(data), threads=1, check=check, build=Build()
    )
    return result.save(out)


def measure(bundle: Path, cpu: str, feed: Mapping[str, Any], folder: Path) -> Ours:
    """Run it under qemu and count.

    Raises:
        GraphoptError: there is no qemu, no compiler, or it fails.
    """
    target = Arm(cpu)
    machine = target.machine()
    program = linked(bundle, target.toolchain(), qemu.find(machine), folder)
    outputs = list(program.run(feed, 1).values())
    found = listed(program.emulator.command[0], lambda o: program.run(feed, 1, o), folder, GETPGID)
    return Ours(program, found, tally(program.path.read_bytes(), found, machine), outputs)


def linked(bundle: Path, toolchain: Any, emulator: qemu.Emulator, folder: Path) -> Artifact:
    """The bundle's example, its run marked."""
    manifest = Manifest.load(bundle)
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("main.c", "model.h", ARCHIVE):
        (folder / file).write_bytes((bundle / file).read_bytes())
    (folder / "marked.c").write_text(MARKED.format(p=manifest.prefix))
    flags = [*STATIC_FLAGS, "-D_GNU_SOURCE"]
    run(toolchain, [*flags, f"-D{manifest.prefix}_run=marked_run", "-c", "main.c"], folder)
    run(
        toolchain, [*flags, "main.o", "marked.c", ARCHIVE, "-o", "main", "-lpthread", "-lm"], folder
    )
    return Artifact(folder / "main", manifest, emulator)


def sizes(bundle: Path) -> tuple[int, int]:
    """Bytes of the library, and of those what aren't weights."""
    manifest = Manifest.load(bundle)
    library = (bundle / LIBRARY).stat().st_size
    return library, library - manifest.stored_bytes
