"""Rows of tools/bench_arm.py, and their tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tables import Sheet

PEERS = ("ort", "ort-our", "litert", "ncnn")
GOOD = 0.9  # of peak: the goal of a loop
SHOWN = 0.03  # of a model's instructions: a loop, or a family, that has a row


@dataclass
class Row:
    """One engine's inference of one model.

    `families` are layers, multiply-adds and instructions by family of our kernels; `loops` what
    `arm_bench.mca.Loop` says of our hottest loops.
    """

    model: str
    kind: str
    cpu: str
    engine: str
    instructions: int = 0
    error: float | None = None
    macs: int = 0
    library: int = 0
    code: int = 0
    ms: float = 0.0
    families: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    loops: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    why: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is of."""
        return self.model, self.kind, self.cpu, self.engine


def sheets(rows: Sequence[Row]) -> Iterator[Sheet]:
    """All tables."""
    groups = dict.fromkeys((r.kind, r.cpu) for r in rows)
    parts = {g: [r for r in rows if (r.kind, r.cpu) == g] for g in groups}
    for make in (_counts, _families, _summary, _loops):
        for (kind, cpu), mine in parts.items():
            sheet = make(mine, kind, cpu)
            if sheet.rows:
                yield sheet
    yield _libraries(rows)


def _libraries(rows: Sequence[Row]) -> Sheet:
    """What has to be shipped beside a model."""
    sizes = {r.engine: r.library for r in rows if r.library and r.engine != "ours"}
    table = [[engine, f"{size / 1e6:.1f}"] for engine, size in sizes.items() if "-" not in engine]
    return Sheet("shared libraries that a peer has in memory", ["peer", "MB"], table)


def _counts(rows: Sequence[Row], kind: str, cpu: str) -> Sheet:
    found = {r.key: r for r in rows}
    peers = [p for p in PEERS if any(r.engine == p and r.instructions for r in rows)]
    heads = ["model", "MMACs", "ours, M", *(f"{p}, M" for p in peers), "ours / best", "error",
             "code, KB", "library, KB", "ms"]  # fmt: skip
    table, ratios = list[list[str]](), list[float]()
    for model in dict.fromkeys(r.model for r in rows):
        ours = found.get((model, kind, cpu, "ours"))
        others = [found.get((model, kind, cpu, p)) for p in peers]
        counts = [r.instructions for r in others if r and r.instructions]
        ratio = ours.instructions / min(counts) if ours and counts and ours.instructions else None
        ratios += [ratio] if ratio else []
        table.append([model, *_mine(ours, [_told(r) for r in others], ratio)])
    if ratios:
        mean = f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}"
        table.append(["geometric mean", *[""] * (2 + len(peers)), mean, *[""] * 4])
    return Sheet(f"{kind} as {cpu}: instructions of one inference (10^6)", heads, table)


def _told(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.instructions / 1e6:.2f}" if row.instructions else "-"


def _mine(ours: Row | None, others: Sequence[str], ratio: float | None) -> list[str]:
    if ours is None or not ours.instructions:
        return ["", "-", *others, *[""] * 5]
    shown = "" if ratio is None else f"{ratio:.2f}"
    error = "" if ours.error is None else f"{ours.error:.1e}"
    return [f"{ours.macs / 1e6:.1f}", _told(ours), *others, shown, error, f"{ours.code / 1e3:.0f}",
            f"{ours.library / 1e3:.0f}", f"{ours.ms:.2f}"]  # fmt: skip


def _families(rows: Sequence[Row], kind: str, cpu: str) -> Sheet:
    """Where our instructions go."""
    table: list[list[str]] = []
    for row in (r for r in rows if r.families):
        for family, (layers, macs, executed) in sorted(
            row.families.items(), key=lambda item: -item[1][2]
        ):
            if executed < SHOWN * row.instructions:
                continue
            each = f"{macs / executed:.2f}" if macs and executed else ""
            share = f"{100 * executed / row.instructions:.0f} %"
            table.append([row.model, family, str(layers), f"{macs / 1e6:.2f}",
                          f"{executed / 1e6:.3f}", share, each])  # fmt: skip
    heads = ["model", "family", "layers", "MMACs", "instructions, M", "share", "MACs / instruction"]
    return Sheet(f"{kind} as {cpu}: our kernels by family", heads, table)


def _summary(rows: Sequence[Row], kind: str, cpu: str) -> Sheet:
    """All loops with multiply-adds of a model together, weighted by how often they turned."""
    table: list[list[str]] = []
    for row in rows:
        loops = [loop for loop in row.loops if loop["lanes"]]
        if not loops:
            continue
        turns = [loop["share"] / loop["length"] for loop in loops]
        cycles, estimate, best = (
            sum(t * loop[key] for t, loop in zip(turns, loops, strict=True))
            for key in ("cycles", "estimate", "best")
        )
        good = sum(_of_peak(loop) >= GOOD for loop in loops)
        spilt = sum(loop["spills"] > 0 for loop in loops)
        share = sum(loop["share"] for loop in loops)
        table.append([row.model, f"{100 * share:.0f} %", str(len(loops)), str(good), str(spilt),
                      f"{100 * best / cycles:.0f} %", f"{estimate / cycles:.2f}"])  # fmt: skip
    heads = ["model", "share", "loops", f"at {100 * GOOD:.0f} %", "with spills", "of peak, all",
             "estimate / llvm-mca"]  # fmt: skip
    return Sheet(
        f"{kind} as {cpu}: kernels' hottest loops with multiply-adds, in llvm-mca", heads, table
    )


def _loops(rows: Sequence[Row], kind: str, cpu: str) -> Sheet:
    """The hottest loops in llvm-mca."""
    table: list[list[str]] = []
    for row in rows:
        for loop in (x for x in row.loops if x["share"] >= SHOWN):
            table.append([
                row.model, loop["family"], f"{100 * loop['share']:.0f} %", str(loop["length"]),
                str(loop["lanes"]), str(loop["spills"]), f"{loop['cycles']:.1f}",
                f"{loop['estimate']:.1f}", f"{loop['estimate'] / loop['cycles']:.2f}",
                f"{loop['lanes'] / loop['cycles']:.2f}", f"{100 * _of_peak(loop):.0f} %",
            ])  # fmt: skip
    heads = ["model", "family", "share", "instructions", "FMA lanes", "spills", "cycles, llvm-mca",
             "estimated", "ratio", "lanes / cycle", "of peak"]  # fmt: skip
    return Sheet(f"{kind} as {cpu}: the hottest loop of each kernel, in llvm-mca", heads, table)


def _of_peak(loop: Mapping[str, Any]) -> float:
    return loop["best"] / loop["cycles"]
