"""Measuring the roofline of this computer: compile probe.c, run it, keep the numbers.

They are kept in the user's cache folder, one small file for a CPU and a number of threads, so that
the seconds that measuring takes are spent once. Other work makes a measurement slower, and shows:
measured again, the peaks differ, or several threads do less than one. Then they are measured once
more; what never settles is kept as not steady, and measured again when it is next asked for, unless
whoever asks has no time for it.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from graphopt.errors import UnsupportedError
from graphopt.limits import free_memory
from graphopt.targets.cache import cache_folder, keep
from graphopt.targets.driver import toolchain
from graphopt.targets.roofline.host import Host, this_host
from graphopt.targets.roofline.model import Roofline, parse_probe

SOURCE = Path(__file__).with_name("probe.c")
MOST_THREADS = 64  # of the probe, and of a compiled model
MILLISECONDS = 25  # each number is the best of the trials that fit in
MOST_BYTES = 1 << 28  # the largest working set; beyond it memory gets no slower
LEAST_BYTES = 1 << 14  # the smallest: what is measured again, beside the peaks
TIME_LIMIT = 120.0  # seconds; it takes 2
TRIES = 4  # measurements at most
ALIKE = 0.95  # of a peak: less is another number
VERSION = 2  # of how measurements are made sure of
UNSTEADY = "the machine had other work while its roofline was measured, and may do more"

_FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-w")
_NATIVE = {
    "x86_64": ("-march=native", "-mprefer-vector-width=512"),
    "AMD64": ("-march=native", "-mprefer-vector-width=512"),
    "aarch64": ("-mcpu=native",),
}


def host_roofline(threads: int, *, remeasure: bool = False, settle: bool = True) -> Roofline:
    """The roofline of this computer for a number of threads: as kept, else measured now.

    One that isn't steady is measured again, and joined with what was kept, if it is to `settle`.

    Raises:
        UnsupportedError: there is no C compiler, or what it made doesn't run here.
    """
    threads = min(threads, MOST_THREADS)
    host = this_host()
    kept = None if remeasure else _read(_place(host, threads))
    if kept and (kept.steady or not settle):
        return kept
    with _built() as probe:
        one = None
        if threads > 1:
            one = _read(_place(host, 1)) or _measured(probe, host, 1, LEAST_BYTES)
        found = _settled(probe, host, threads, kept, one)
    keep(_place(host, threads), f"{found.to_json()}\n".encode())
    return found


def _place(host: Host, threads: int) -> Path:
    return cache_folder("roofline") / f"{_key(host)}-{threads}.json"


def _settled(
    probe: Path, host: Host, threads: int, kept: Roofline | None, one: Roofline | None
) -> Roofline:
    """The best of measurements, until one more finds the same peaks, none below one thread's.

    The first is of everything, the others are of the peaks.
    """
    best = kept
    for i in range(TRIES):
        new = _measured(probe, host, threads, LEAST_BYTES if i else MOST_BYTES)
        again = best is not None and _alike(best, new)
        best = best.joined(new) if best else new
        if again and not (one and _slower(best, one)):
            return replace(best, steady=True)
    assert best
    return replace(best, steady=False)


def _alike(a: Roofline, b: Roofline) -> bool:
    """Whether two measurements found the same peaks."""
    pairs = [(rate, b.peaks.get(unit, 0.0)) for unit, rate in a.peaks.items()]
    return all(min(pair) >= ALIKE * max(pair) for pair in pairs)


def _slower(several: Roofline, one: Roofline) -> bool:
    """Whether several threads do less than one."""
    return any(several.peaks.get(unit, 0.0) < ALIKE * rate for unit, rate in one.peaks.items())


def _measured(probe: Path, host: Host, threads: int, most: int) -> Roofline:
    """Measure now: the peaks, and bandwidths for working sets up to `most` bytes."""
    most = max(min(most, free_memory() // 4), LEAST_BYTES)
    lines = _run([str(probe), str(threads), str(MILLISECONDS), str(most)])
    try:
        return parse_probe(host.name, threads, lines)
    except (ValueError, KeyError, TypeError) as why:
        raise UnsupportedError(f"measuring this computer gave no numbers: {why}") from why


@contextmanager
def _built() -> Iterator[Path]:
    """The compiled probe, in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        native = _NATIVE.get(platform.machine(), ())
        args = [*_FLAGS, *native, str(SOURCE), "-o", "probe", "-lpthread"]
        toolchain.run(toolchain.find(), args, Path(name))
        yield Path(name) / "probe"


def _run(command: list[str]) -> list[str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=TIME_LIMIT
        )
    except (OSError, subprocess.SubprocessError) as why:
        raise UnsupportedError(f"measuring this computer failed: {why}") from why
    return done.stdout.splitlines()


def _key(host: Host) -> str:
    """What decides the numbers: the machine, and how they are measured."""
    digest = hashlib.sha256(SOURCE.read_bytes() + bytes([VERSION]))
    digest.update(host.text.encode())
    return digest.hexdigest()[:24]


def _read(path: Path) -> Roofline | None:
    """What was kept; None where nothing usable was."""
    try:
        return Roofline.from_json(path.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
