"""Which CPU this computer has, so that numbers measured on one aren't taken for another's."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

# What tells CPUs apart in /proc/cpuinfo: the first four on x86, the others on ARM.
_IDENTITY = (
    "vendor_id", "cpu family", "model", "stepping",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part",
)  # fmt: skip
_FEATURES = ("flags", "Features")
_NAMES = ("model name", "Model", "Hardware")


@dataclass(frozen=True)
class Host:
    """A computer: `name` for people; `text` differs where what its CPUs can do differs."""

    name: str
    text: str


@functools.cache
def this_host() -> Host:
    """The computer that runs this."""
    fields = _cpuinfo()
    name = next((fields[n] for n in _NAMES if n in fields), "")
    name = name or platform.processor() or platform.machine() or "unknown CPU"
    parts = [platform.machine(), name, *(fields.get(n, "") for n in _IDENTITY)]
    parts += [" ".join(sorted(fields.get(n, "").split())) for n in _FEATURES]
    return Host(name, "\n".join([*parts, str(_cpus()), *_cache_sizes()]))


def _cpuinfo() -> dict[str, str]:
    """The fields of the first CPU, and those of the whole machine."""
    try:
        lines = _CPUINFO.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def _cache_sizes() -> list[str]:
    try:
        return sorted(f"{p.parent.name} {p.read_text('ascii').strip()}"
                      for p in _CACHES.glob("index*/size"))  # fmt: skip
    except OSError:
        return []


def _cpus() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
