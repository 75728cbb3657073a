"""Machines: what a code generator must know of a CPU, read from TOML files beside this module.

A machine is the *least* CPU its kernels run on; `cpu_features` (spelled as in /proc/cpuinfo) is
what a runtime checks before it calls them.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from graphopt.errors import InputError, UnsupportedError
from graphopt.spec import nearest

FOLDER = Path(__file__).parent / "machines"


@dataclass(frozen=True)
class Machine:
    """One CPU model.

    `lanes` counts float32 elements of a vector register, `registers` the vector registers;
    caches are in bytes per core; peak_gflops (float32, one core) and bandwidth_gbs are 0 where
    nobody measured them.
    """

    name: str
    arch: str
    triple: str
    mcpu: str
    mattr: tuple[str, ...]
    cpu_features: tuple[str, ...]
    lanes: int
    registers: int
    fma: bool
    l1_bytes: int
    l2_bytes: int
    cores: int = 1
    peak_gflops: float = 0.0
    bandwidth_gbs: float = 0.0

    def to_json(self) -> str:
        """One line of JSON, the same for equal machines."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Machine:
        """The inverse of `to_json`."""
        return _machine(json.loads(text))

    def runs_on(self, features: frozenset[str]) -> bool:
        """Whether a CPU with these features can run code made for this machine."""
        return features.issuperset(self.cpu_features)


def _machine(fields: dict[str, Any]) -> Machine:
    lists = ("mattr", "cpu_features")
    values: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in fields.items()}
    return Machine(**values)


def names() -> list[str]:
    """The known machines."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


@lru_cache(maxsize=64)
def load(name: str) -> Machine:
    """Read a machine by name.

    Raises:
        InputError: there is none; the nearest is offered.
    """
    if name not in names():
        raise InputError(f"no machine named {name!r}{nearest(name, names())}")
    fields = tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
    return _machine({"name": name, **fields})


def host_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The flags of this computer's CPU, as Linux spells them; empty where it doesn't say."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, ":").split(":", 1)[1].split())


def detect(features: frozenset[str] | None = None) -> Machine:
    """The machine with the widest vectors that this computer (or a CPU with `features`) can run.

    Raises:
        UnsupportedError: none of them.
    """
    have = host_features() if features is None else features
    fitting = [m for m in map(load, names()) if m.runs_on(have)]
    if not fitting:
        raise UnsupportedError(f"this CPU runs none of the known machines: {', '.join(names())}")
    return max(fitting, key=lambda m: (m.lanes, len(m.cpu_features)))
