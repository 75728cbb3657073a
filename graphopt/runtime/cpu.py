"""What this machine's CPU can do, compared with what a bundle needs."""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from graphopt.errors import UnsupportedError

_CPUINFO = Path("/proc/cpuinfo")

# Where LLVM's name of a feature isn't the kernel's, punctuation aside.
_KERNEL_NAMES = {
    "sse3": "pni",
    "lzcnt": "abm",
    "pclmul": "pclmulqdq",
    "rdrnd": "rdrand",
    "prfchw": "3dnowprefetch",
    "sahf": "lahflm",
    "sha": "shani",
    "neon": "asimd",
    "dotprod": "asimddp",
    "fullfp16": "asimdhp",
    "fp16": "asimdhp",
    "fparmv8": "fp",
    "crc": "crc32",
    "lse": "atomics",
    "rdm": "asimdrdm",
    "fp16fml": "asimdfhm",
}


def is_native(arch: str) -> bool:
    """Whether this machine is of an architecture, as far as both are known."""
    machine = platform.machine()
    return not arch or not machine or same_arch(arch, machine)


def same_arch(a: str, b: str) -> bool:
    """Whether two names mean the same architecture."""
    return _arch(a) == _arch(b)


def check_machine(arch: str, features: Iterable[str]) -> None:
    """Raise UnsupportedError, naming what is missing, if this machine can't run the code."""
    if not is_native(arch):
        here = platform.machine()
        raise UnsupportedError(f"the bundle is for {arch}, and this machine is {here}")
    have = cpu_features()
    missing = [f for f in features if _kernel_name(f) not in have] if have else []
    if missing:
        text = f"the bundle needs a CPU with {', '.join(missing)}, which this one does not have"
        raise UnsupportedError(text)


def cpu_features() -> frozenset[str]:
    """The features that every CPU of the machine has (see /proc/cpuinfo), without punctuation.

    Empty where the system doesn't tell.
    """
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    every = [frozenset(map(_plain, line.split())) for line in set(lines)]
    return functools.reduce(lambda a, b: a & b, every, every[0]) if every else frozenset()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _kernel_name(name: str) -> str:
    plain = _plain(name)
    return _KERNEL_NAMES.get(plain, plain)


def _arch(name: str) -> str:
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name.lower(), name.lower())
