"""A bundle's example program, linked with its static library: what is run to prove it."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError, LimitError, MismatchError
from graphopt.limits import max_seconds
from graphopt.runtime.manifest import Manifest, TensorSpec
from graphopt.runtime.tensors import dtype_of
from graphopt.targets.bundle import ARCHIVE
from graphopt.targets.driver.toolchain import LIBRARIES, STATIC_FLAGS, Toolchain, run
from graphopt.targets.emulator.qemu import Emulator

PROGRAM = "main"


@dataclass(frozen=True)
class Artifact:
    """The linked program at `path`, the bundle's manifest, and what runs it."""

    path: Path
    manifest: Manifest
    emulator: Emulator

    def run(
        self, feed: Mapping[str, Any], threads: int, options: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The outputs for one input; `options` are qemu's.

        Raises:
            MismatchError: it crashes, for example at an instruction that the CPU lacks.
            LimitError: it takes too long.
            GraphoptError: it reports an error.
        """
        with tempfile.TemporaryDirectory(dir=self.path.parent) as name:
            folder = Path(name)
            ins = list(write_inputs(folder, self.manifest.inputs, feed))
            outs = [f"out{i}" for i in range(len(self.manifest.outputs))]
            self._run([str(threads), *ins, *outs], options, folder)
            return read_outputs(folder, self.manifest.outputs)

    def _run(self, args: Sequence[str], options: Sequence[str], folder: Path) -> None:
        command = [*self.emulator.command, *options, str(self.path), *args]
        limit = max_seconds()
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False,
                timeout=limit, cwd=folder,
            )  # fmt: skip
        except subprocess.TimeoutExpired as why:
            raise LimitError(
                f"running it {self.emulator.how} takes over {limit:g} s (--max-seconds)"
            ) from why
        if done.returncode < 0:
            what = signal.Signals(-done.returncode).name
            raise MismatchError(f"the compiled program crashes ({what}) {self.emulator.how}")
        if done.returncode:
            words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise GraphoptError(f"the compiled program fails {self.emulator.how}: {words}")


@contextmanager
def linked(bundle: Path, toolchain: Toolchain) -> Generator[Path]:
    """A bundle's example linked with its static library, in a folder that goes away.

    Raises:
        GraphoptError: it can't be linked.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        folder = Path(name)
        for file in ("main.c", "model.h", ARCHIVE):
            (folder / file).symlink_to((bundle / file).resolve(strict=True))
        args = [*STATIC_FLAGS, "main.c", ARCHIVE, "-o", PROGRAM, *LIBRARIES]
        run(toolchain.static(), args, folder)
        yield folder / PROGRAM


@contextmanager
def artifact(bundle: Path, toolchain: Toolchain, emulator: Emulator) -> Generator[Artifact]:
    """The same, to be run.

    Raises:
        GraphoptError: it can't be linked.
    """
    with linked(bundle, toolchain) as program:
        yield Artifact(program, Manifest.load(bundle), emulator)


@dataclass(frozen=True)
class Emulated:
    """Runs bundles for verification (`graphopt.targets.base.Runner`).

    `seconds` may pass before no further sample is begun: emulation is a hundred times slower.
    """

    toolchain: Toolchain
    emulator: Emulator
    seconds: float = 20.0

    @property
    def how(self) -> str:
        """What runs them."""
        return self.emulator.how

    def run(
        self, bundle: Path, feeds: Sequence[Mapping[str, Any]], threads: int
    ) -> list[dict[str, Any]]:
        """The outputs for the first of the inputs, at least one."""
        found: list[dict[str, Any]] = []
        with artifact(bundle, self.toolchain, self.emulator) as program:
            until = time.monotonic() + self.seconds
            for feed in feeds:
                found.append(program.run(feed, threads))
                if time.monotonic() > until:
                    break
        return found


def write_inputs(
    folder: Path, specs: Sequence[TensorSpec], feed: Mapping[str, Any]
) -> Iterator[str]:
    """Raw files of the inputs, in the order of the interface; their names."""
    for i, spec in enumerate(specs):
        array = np.ascontiguousarray(feed[spec.name], dtype_of(spec.dtype or "float32"))
        (folder / f"in{i}").write_bytes(array.tobytes())
        yield f"in{i}"


def read_outputs(folder: Path, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """The outputs by name, of the files `out0`, `out1`, ..."""
    return {spec.name: _read(folder / f"out{i}", spec) for i, spec in enumerate(specs)}


def _read(path: Path, spec: TensorSpec) -> Any:
    shape = [d for d in spec.shape or () if isinstance(d, int)]
    return np.frombuffer(path.read_bytes(), dtype_of(spec.dtype or "float32")).reshape(shape)
