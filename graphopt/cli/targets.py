"""`graphopt targets`: what can be compiled for."""

from __future__ import annotations

from typing import Any

from graphopt.cli import console
from graphopt.cli.options import Json
from graphopt.errors import UnsupportedError


def targets(json: Json = False) -> None:
    """List the targets and their CPUs; `*` marks what this computer is."""
    from graphopt.targets.base import Target

    found = [_about(name, cls) for name, cls in Target.members().items()]
    if json:
        console.show_json({"targets": found})
        return
    rows = [
        row
        for t in found
        for row in [(t["name"], t["summary"]),
                    *((f"{'*' if c['host'] else ' '} {t['name']}:{c['name']}", c["about"])
                      for c in t["cpus"])]
    ]  # fmt: skip
    console.show(console.table(("target", "what it is"), rows, left=2))


def _about(name: str, cls: type[Any]) -> dict[str, Any]:
    host = _host(cls)
    cpus = [{"name": c, "about": cls(c).describe(), "host": c == host} for c in cls.cpus()]
    return {"name": name, "summary": cls.summary, "cpus": cpus, "host": host,
            "pipelines": dict(cls.pipelines)}  # fmt: skip


def _host(cls: type[Any]) -> str | None:
    """The CPU that the bare target name stands for here; None where it can't run here."""
    from graphopt.runtime.cpu import is_native
    from graphopt.targets.machine import host_features

    try:
        machine = cls("").machine()
    except UnsupportedError:
        return None
    runs = is_native(machine.arch) and machine.runs_on(host_features())
    return str(machine.name) if runs else None
