"""Running a bundle on another computer, a board: copied there by ssh, timed, cleaned up.

The board needs an ssh server, `sh`, `tar` and `mktemp`; the program is linked here, and needs no
library there.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError, InputError, LimitError, MismatchError, UnsupportedError
from graphopt.limits import max_seconds
from graphopt.runtime.cpu import same_arch
from graphopt.runtime.manifest import Manifest
from graphopt.targets.base import parse_target
from graphopt.targets.compiled import Compiled
from graphopt.targets.driver.toolchain import find
from graphopt.targets.elsewhere import suited
from graphopt.targets.emulator.artifact import PROGRAM, linked, read_outputs, write_inputs

UNREACHED = 255  # ssh's own exit code
SIGILL = 128 + 4  # as a shell reports it
PLACE = re.compile(r"/[\w./-]+")


@dataclass(frozen=True)
class Timed:
    """What runs on the board took, in seconds, and the outputs of the last one."""

    seconds: list[float]
    outputs: dict[str, Any]


@dataclass(frozen=True)
class Board:
    """A computer as ssh names it; `options` are ssh's (`Port=2222`).

    `before` goes before the program.
    """

    host: str
    options: tuple[str, ...] = ()
    before: str = ""

    def ask(self, command: str, given: bytes = b"") -> bytes:
        """Run a shell command there; give what it prints.

        Raises:
            UnsupportedError: there is no ssh here.
            InputError: the board can't be reached.
            LimitError: it takes too long.
            GraphoptError: the command fails.
        """
        done = self._run(command, given)
        if done.returncode:
            raise GraphoptError(f"{self.host}: {_words(done)}")
        return done.stdout

    def _run(self, command: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
        ssh = shutil.which("ssh")
        if not ssh:
            raise UnsupportedError("no ssh was found: `apt-get install openssh-client`")
        if self.host.startswith("-"):
            raise InputError(f"--ssh {self.host!r} is no host")
        options = [part for option in self.options for part in ("-o", option)]
        limit = max_seconds()
        try:
            done = subprocess.run(
                [ssh, *options, "--", self.host, command], input=given, capture_output=True,
                check=False, timeout=limit,
            )  # fmt: skip
        except subprocess.TimeoutExpired as why:
            raise LimitError(f"{self.host} takes over {limit:g} s (--max-seconds)") from why
        if done.returncode == UNREACHED:
            raise InputError(f"{self.host} can't be reached: {_words(done)}")
        return done

    @contextmanager
    def folder(self) -> Generator[str]:
        """A folder there that goes away."""
        place = self.ask("mktemp -d").decode(errors="replace").strip()
        if not PLACE.fullmatch(place):
            raise GraphoptError(f"{self.host}: mktemp made no folder, but {place!r}")
        try:
            yield place
        finally:
            with suppress(GraphoptError):
                self.ask(f"rm -rf {place}")

    def check(self, arch: str) -> None:
        """Raise UnsupportedError unless it is of an architecture, or `before` knows better."""
        told = self.ask("uname -m").decode(errors="replace").strip()
        if not self.before and not same_arch(told, arch):
            raise UnsupportedError(f"the bundle is for {arch}, and {self.host} is {told}")

    def program(self, place: str, args: Sequence[str], manifest: Manifest) -> list[int]:
        """Run the bundle's program; the nanoseconds of its runs."""
        # A shell that stays says by its exit code which signal ended the program; ssh wouldn't.
        command = f"cd {place} && {self.before} ./{PROGRAM} {shlex.join(args)}; exit $?"
        done = self._run(command, b"")
        if done.returncode == SIGILL:
            what = manifest.extra.get("machine", manifest.target)
            raise MismatchError(
                f"{self.host} lacks an instruction that the bundle, compiled for {what}, uses"
            )
        if done.returncode:
            raise GraphoptError(f"the compiled program fails on {self.host}: {_words(done)}")
        return [int(line) for line in done.stdout.split()]


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    """The last line of what was said of an error."""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def time_on(
    board: Board, bundle: Path, feed: Mapping[str, Any], threads: int, seconds: float
) -> Timed:
    """Run a bundle on a board for some seconds.

    Args:
        board: where.
        bundle: the folder, with a static library.
        feed: the inputs.
        threads: of a run; 0: all of the board's CPUs.
        seconds: how long, at least three runs.

    Raises:
        InputError: the board can't be reached, or an input doesn't suit the bundle.
        UnsupportedError: there is no compiler for it, no ssh, or it is no such board.
        MismatchError: the board's CPU lacks an instruction.
        GraphoptError: the program fails there.
    """
    manifest = Manifest.load(bundle)
    given = suited(manifest, feed)
    target = parse_target(manifest.target)
    if not isinstance(target, Compiled) or not target.static:
        raise UnsupportedError(f"bundles for {manifest.target} have no static library to send")
    toolchain = target.toolchain() or find()
    board.check(manifest.arch)
    with linked(bundle, toolchain) as program, board.folder() as place:
        folder = program.parent
        ins = list(write_inputs(folder, manifest.inputs, given))
        outs = [f"out{i}" for i in range(len(manifest.outputs))]
        board.ask(f"tar xf - -C {place}", _packed(folder, [PROGRAM, *ins]))
        args = ["-t", f"{seconds:g}", str(threads), *ins, *outs]
        ns = board.program(place, args, manifest)
        packed = board.ask(f"cd {place} && tar cf - {shlex.join(outs)}")
        _unpack(packed, folder, outs)
        return Timed([1e-9 * n for n in ns], read_outputs(folder, manifest.outputs))


def _packed(folder: Path, names: Sequence[str]) -> bytes:
    """Files as tar."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            tar.add(folder / name, name)
    return memory.getvalue()


def _unpack(packed: bytes, folder: Path, names: Sequence[str]) -> None:
    """The named files out of tar, and no other."""
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r") as tar:
        for name in names:
            file = tar.extractfile(name)
            (folder / name).write_bytes(file.read() if file else b"")
