"""What working on a model may take: stated limits, so that a hostile one can't take the machine.

`--max-memory` and `--max-seconds` set them for a command; the environment variables of the same
name for everything. Child processes inherit them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from graphopt.errors import InputError

MEMORY, SECONDS = "GRAPHOPT_MAX_MEMORY", "GRAPHOPT_MAX_SECONDS"
DEFAULT_SECONDS = 600.0
SHARE = 0.9  # of the memory that is free


def max_memory() -> int:
    """Bytes that one run of a model may take; default: nine tenths of the machine's free memory.

    Raises:
        InputError: the variable's value is no positive number of GB.
    """
    given = _number(MEMORY)
    return int(given * 1e9) if given else int(SHARE * free_memory())


def max_seconds() -> float:
    """Seconds that one run of the reference, or compiling one kernel, may take.

    Raises:
        InputError: the variable's value is no positive number.
    """
    return _number(SECONDS) or DEFAULT_SECONDS


def _number(name: str) -> float | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise InputError(f"{name}={text[:40]!r} is not a positive number")
    return value


def free_memory() -> int:
    """Bytes this process can still get: what the system has free, its own limits considered."""
    found = [_free_of_system(), *_free_of_group(), *_resource_limits()]
    return max(min(found), 1 << 20)


def _free_of_system() -> int:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(n.split()[1]) << 10 for n in lines if n.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_of_group() -> list[int]:
    """What the control group of a container leaves."""
    base = Path("/sys/fs/cgroup")
    try:
        most = int((base / "memory.max").read_text("ascii"))
        used = int((base / "memory.current").read_text("ascii"))
    except (OSError, ValueError):  # none, or the word "max"
        return []
    cached = _inactive(base / "memory.stat")
    return [most - used + cached]


def _inactive(path: Path) -> int:
    """Bytes of cached files, which give way."""
    try:
        lines = path.read_text("ascii").splitlines()
    except OSError:
        return 0
    return sum(int(n.split()[1]) for n in lines if n.startswith("inactive_file "))


def _resource_limits() -> list[int]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    every = (resource.getrlimit(w)[0] for w in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return [soft for soft in every if soft != resource.RLIM_INFINITY]


def limit_memory(count: int) -> None:
    """Let allocations of this process beyond `count` bytes fail, instead of taking the machine."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        least = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (least, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def gigabytes(count: int) -> str:
    """A number of bytes, for a message."""
    return f"{count / 1e9:.3g} GB"
