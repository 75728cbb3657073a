"""Optimize one model with one tool, in a process of its own: nodes left, seconds, peak memory.

    python tools/peers.py graphopt|onnxslim|onnxsim|ort-basic|ort-extended|count IN.onnx OUT.onnx

prints JSON. The benchmarks run it with the Python that has the tool (`--peer-python`), so at the top
it imports only the standard library. *Seconds* are load, optimize and save, without Python's
imports. The *peak* is the process's largest resident set (VmHWM), and so includes the mapped pages
of files. *Nodes* are all nodes of the written file, those of subgraphs and functions too, but for `Constant`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

TIMEOUT = 600  # seconds for one tool on one model
Work = Callable[[], None]


@dataclass
class Figures:
    """What one tool did with one model; `error` says why it did nothing."""

    tool: str
    nodes: int = 0
    seconds: float = 0.0
    peak_mb: float = 0.0
    anonymous_mb: float = 0.0
    kinds: dict[str, int] = field(default_factory=dict[str, int])
    version: str = ""
    error: str = ""


def find_models(paths: Iterable[Path]) -> list[Path]:
    """ONNX files: those named, and those anywhere below the folders named."""
    found: list[Path] = []
    for path in paths:
        found += sorted(path.rglob("*.onnx")) if path.is_dir() else [path]
    return found


def measure(tool: str, model: Path, python: str, out: Path | None = None) -> Figures:
    """Run this file for a tool in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        target = out or Path(folder) / "out.onnx"
        command = [python, __file__, tool, str(model), str(target)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            return Figures(tool, error=f"took more than {TIMEOUT} s")
    if done.returncode:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Figures(tool, error=words[:200])
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def graphopt(source: Path, target: Path) -> Work:
    """Load, run the default passes, save."""
    import graphopt.api as api
    from graphopt.pipeline import run_pipeline

    def work() -> None:
        module = api.load(source)
        run_pipeline(api.default_passes(None, None), module, api.context())
        api.save(module, target)

    return work


def onnxslim(source: Path, target: Path) -> Work:
    """Run onnxslim.slim."""
    import onnxslim as tool  # pyright: ignore  # the peers' environment has it

    peer: Any = tool
    return lambda: peer.slim(str(source), str(target))


def onnxsim(source: Path, target: Path) -> Work:
    """Run onnxsim.simplify and onnx.save."""
    import onnx
    import onnxsim as tool  # pyright: ignore  # the peers' environment has it

    peer, onnx_io = cast("Any", tool), cast("Any", onnx)

    def work() -> None:
        model, _ = peer.simplify(str(source))
        large = model.ByteSize() > 1_500_000_000
        onnx_io.save(model, str(target), save_as_external_data=large)

    return work


def onnxruntime(source: Path, target: Path, level: str) -> Work:
    """Make a session that writes its optimized graph; large weights go to a file of their own."""
    import onnxruntime as tool

    peer: Any = tool
    options = peer.SessionOptions()
    options.graph_optimization_level = getattr(peer.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    key = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(key + "file_name", f"{target.name}.data")
    options.add_session_config_entry(key + "min_size_in_bytes", "65536")
    providers = ["CPUExecutionProvider"]
    return lambda: peer.InferenceSession(str(source), options, providers=providers)


def count(source: Path, target: Path) -> Work:
    """Copy the file, to count its nodes."""
    return lambda: target.symlink_to(source.absolute())


TOOLS: dict[str, Callable[[Path, Path], Work]] = {
    "count": count,
    "graphopt": graphopt,
    "onnxslim": onnxslim,
    "onnxsim": onnxsim,
    "ort-basic": lambda source, target: onnxruntime(source, target, "BASIC"),
    "ort-extended": lambda source, target: onnxruntime(source, target, "EXTENDED"),
}
PACKAGES = {"ort-basic": "onnxruntime", "ort-extended": "onnxruntime", "count": "onnx"}


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        if node.op_type != "Constant":
            yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def op_types(path: Path) -> dict[str, int]:
    """Nodes of a model by op type, most frequent first."""
    import onnx

    model = onnx.ModelProto.FromString(path.read_bytes())
    found: dict[str, int] = {}
    for node in (*_nodes(model.graph), *(n for f in model.functions for n in _nodes(f))):
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def memory() -> tuple[float, float]:
    """The largest resident set so far, and the anonymous part of today's, in MB (10^6 bytes)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 0.0
    found = {
        line.split(":")[0]: line.split()[1]
        for line in lines
        if line.startswith(("VmHWM", "RssAnon"))
    }
    return int(found["VmHWM"]) * 1.024e-3, int(found["RssAnon"]) * 1.024e-3


def _version(tool: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(PACKAGES.get(tool, tool))
    except metadata.PackageNotFoundError:
        return ""


def table(rows: Sequence[Sequence[Any]], heads: Sequence[str]) -> str:
    """Aligned text columns: the first to the left, numbers to the right."""
    cells = [list(heads), *([_cell(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    return "\n".join(_line(row, widths) for row in cells)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    pairs = list(zip(row, widths, strict=True))
    first = [c.ljust(w) for c, w in pairs[:1]]
    return "  ".join([*first, *(c.rjust(w) for c, w in pairs[1:])]).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def main() -> None:
    """Run one tool on one model; print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    o = parser.parse_args()
    work = TOOLS[o.tool](o.source, o.target)
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    peak, anonymous = memory()
    kinds = op_types(o.target)
    figures = Figures(
        o.tool, sum(kinds.values()), seconds, peak, anonymous, kinds, _version(o.tool)
    )
    json.dump(asdict(figures), sys.stdout)


if __name__ == "__main__":
    main()
