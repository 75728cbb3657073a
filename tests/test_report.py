"""The account of an optimization: as JSON, on the screen, as a page."""

from __future__ import annotations

import html.parser
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from rich.console import Console

import graphopt
from graphopt.hooks import PassError
from graphopt.ir.core import Loc
from graphopt.pipeline import Record
from graphopt.report.html import LAYERS, groups, html_page, kind_bars, time_bars
from graphopt.report.model import Fallback, Latency, Report, Size
from graphopt.report.screen import screen
from graphopt.report.units import count, milliseconds, size
from graphopt.rewrite import Remark
from graphopt.verify import Check, OutputError, Tolerance

EVIL = "<script>alert('x')</script>&amp;"


def layer(i: int) -> dict[str, Any]:
    name = EVIL if i == 0 else f"layer{i}"
    return {"name": name, "nodes": [f"n{i}"], "kernel": f"k{i}", "macs": 10**6, "us": 50.0 + i,
            "share": 0.02, "flops": 2 * 10**6, "bytes": 10**5, "gflops": 40.0, "gbs": 2.0, "unit": "f32",
            "intensity": 20.0, "roofline_us": 12.5, "roofline": 12.5 / (50 + i), "bound": "compute",
            "operands": ["f32[1,8]"], "results": ["f32[1,8]"], "ops": ["conv", "relu"]}  # fmt: skip


def example(**changes: Any) -> Report:
    before = Size(
        155, 301_000_000, 3_500_000, 14_000_000, 4_800_000, {"conv": 52, "batch_norm": 52}
    )
    after = Size(98, 301_000_000, 3_400_000, 13_900_000, 4_800_000, {"conv": 52, EVIL: 1})
    remarks = tuple(Remark("fold-norm", Loc((f"conv{i}",)), True) for i in range(7))
    missed = (Remark("fold-norm", Loc((EVIL,)), False, "its result has <two> uses"),)
    worst = OutputError("y", 1e-7, 2e-7, math.inf, None, True)
    limit = Tolerance(1e-4, 100, 6e-8)
    fields: dict[str, Any] = {
        "model": "mobile.onnx", "target": "x86:avx2", "pipeline": "fold,fuse", "before": before,
        "after": after,
        "passes": [Record(1, "fold", "exact", False),
                   Record(2, "fuse", "reassociating", True, remarks + missed)],
        "seconds": {"read": 0.1, "compile": 12.3}, "notes": [f"note {EVIL}"],
        "checks": [Check("the compiled bundle", 3, "seeded", limit, (worst,))],
        "kernels": 20, "calls": 38, "arena_bytes": 10**6,
        "fallback": Fallback(2, 0.1, {"LSTM": f"no kernel {EVIL}"}, 0.25),
        "latency": [Latency("graphopt", 4, 10.0, 9.0, 50),
                    Latency("onnxruntime", 4, 20.0, 19.0, 50)],
        "layers": [layer(i) for i in range(50)],
        "roofline": {"cpu": "a CPU", "threads": 4, "peaks": {"f32": 160.0}, "bandwidth": [[1 << 15, 400.0], [1 << 28, 20.0]]},
        "files": {"model.onnx": 14_000_000, "libmodel.so": 14_600_000}, "source_bytes": 14_200_000,
        "pass_seconds": [0.01, 0.02], "pass_errors": [PassError(2, "fuse", worst)],
        "versions": {"graphopt": "0.1"},
    }  # fmt: skip
    return Report(**{**fields, **changes})


BARE = example(
    target="", checks=[], latency=[], layers=[], files={}, versions={}, fallback=None, calls=0,
    kernels=0, seconds={}, notes=[], pass_seconds=[], pass_errors=[], source_bytes=0, roofline=None,
)  # fmt: skip


class Page(html.parser.HTMLParser):
    """Checks that tags are closed, and collects what is of interest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("report", [example(), BARE], ids=["full", "bare"])
def test_page_is_well_formed_and_self_contained(report: Report) -> None:
    text = html_page(report)
    page = Page()
    page.feed(text)
    assert not page.open
    assert not page.links
    assert "script" not in page.tags
    assert "http" not in text
    assert "url(" not in text
    assert text.startswith("<!DOCTYPE html>")


def test_page_escapes_names_and_shows_everything() -> None:
    text = html_page(example())
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    for part in ("52 → 0", "fold-norm", "its result has &lt;two&gt; uses", "10.0 %", "25.0 %",
                 "LSTM", "10 more layers", "x86:avx2", "Verified.", "1.00 M"):  # fmt: skip
        assert part in text


def test_page_says_when_it_is_not_verified() -> None:
    assert "Not verified." in html_page(BARE)
    wrong = OutputError("y", 1.0, 2.0, -math.inf, None, False, "NaN in other places")
    bad = Check("the bundle", 1, "given", Tolerance(1e-4, 1, 6e-8), (wrong,))
    assert "The numbers differ." in html_page(example(checks=[bad]))


def test_remarks_are_grouped_and_counted() -> None:
    first, second = groups(example().passes[1])
    assert (first.count, first.applied, len(first.places)) == (7, True, 3)
    assert (second.count, second.applied, second.places) == (1, False, (EVIL,))


def test_bars_stay_in_the_chart() -> None:
    bars = time_bars(example().layers)
    assert len(bars) == LAYERS + 1
    assert bars[0].share == 1.0
    assert all(0 <= b.share <= 1 for b in bars)
    assert all(0 <= b.share <= 1 and 0 <= b.second <= 1 for b in kind_bars({"a": 3}, {"b": 9}))
    assert time_bars([]) == []


def test_json_is_json_whatever_the_numbers() -> None:
    told = json.loads(json.dumps(example().to_json(), allow_nan=False))
    assert told["verified"] is True
    assert told["checks"][0]["outputs"][0]["sqnr_db"] is None
    assert told["checks"][0]["text"].startswith("the compiled bundle agrees")
    assert told["before"]["operators"] == 155


def test_names_that_steer_a_terminal_are_escaped(tmp_path: Path) -> None:
    report = example()
    report.notes, report.missed = ["kept: \x1b[31mred"], ["pass 8: \x1b]0;title"]
    text = shown(report, 100, tmp_path)
    assert "\x1b" not in text
    assert "note: kept: \\x1b[31mred" in text and "limit missed: pass 8: \\x1b]0;title" in text


def shown(report: Report, width: int, place: Path) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(screen(report, model=Path("my model.onnx"), place=place, seconds=14.5))
    return console.file.getvalue()  # pyright: ignore


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("report", [example(), BARE], ids=["full", "bare"])
def test_screen_fits_its_width_and_is_plain_in_a_pipe(
    report: Report, width: int, tmp_path: Path
) -> None:
    text = shown(report, width, tmp_path)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text


def test_screen_says_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "libmodel.so").write_bytes(b"x" * 1500)
    lines = " ".join(shown(example(), 250, tmp_path).split())
    for text in ("operators 155 98 37 % fewer", "kernel calls - 38", "MACs 301 M 301 M",
                 "model.onnx 14.2 MB 14.0 MB", "latency 20.0 ms 10.0 ms 2.00x as fast",
                 "x86:avx2, 4 threads", "the compiled bundle agrees",
                 "10 % of the counted MACs and 25 % of the time run in ONNX Runtime", "LSTM: no kernel",
                 "in 14.5 s (compile 12.3 s", "libmodel.so 1.50 kB",
                 "graphopt verify", "'my model.onnx' --data"):  # fmt: skip
        assert text in lines


def test_screen_says_when_it_is_slower(tmp_path: Path) -> None:
    slow = [Latency("graphopt", 1, 30.0, 29.0, 9), Latency("onnxruntime", 1, 20.0, 19.0, 9)]
    text = shown(example(latency=slow), 250, tmp_path)
    assert "1.50x slower than ONNX Runtime" in text
    assert "1 thread" in text
    assert "1 threads" not in text


def test_every_command_that_the_screen_offers_exists(tmp_path: Path) -> None:
    from graphopt.cli.app import COMMANDS

    text = shown(example(), 250, tmp_path).split("next:")[1]
    offered = set(re.findall(r"graphopt (\w+) ", text))
    assert offered
    assert offered <= {name for name, _ in COMMANDS}


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1200, "1.20 k"), (301e6, "301 M"), (4.1e9, "4.10 G")],
)
def test_counts(n: float, text: str) -> None:
    assert count(n) == text


def test_sizes_and_times() -> None:
    assert [size(n) for n in (0, 999, 14_200_000)] == ["0 B", "999 B", "14.2 MB"]
    assert [milliseconds(n) for n in (74.0, 1.0, 0.0125)] == ["74.0 ms", "1.00 ms", "12.5 us"]


SHUFFLED = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,8,8] x) => (float[N,5,8,16] y) {
  a = Conv <kernel_shape = [1, 1]> (x, w)
  s = Shape (a)
  n = Gather (s, zero)
  c4 = Gather (s, one)
  c2 = Div (c4, two)
  half = Cast <to = 7> (c2)
  to = Concat <axis = 0> (n, half, rest)
  b = Reshape (a, to)
  c = Conv <kernel_shape = [1, 1]> (b, v)
  y = Reshape (c, there)
}"""


def test_sizes_that_a_model_computes_itself_count_before_the_passes_as_after() -> None:
    model = onnx.parser.parse_model(SHUFFLED)
    random = np.random.default_rng(0)
    for name, value in {
        "w": random.normal(size=(4, 3, 1, 1)).astype(np.float32),
        "v": random.normal(size=(5, 2, 1, 1)).astype(np.float32),
        "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "rest": np.array([16, 8]),
        "there": np.array([0, 5, 8, 16]),
    }.items():  # fmt: skip
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    report = graphopt.optimize(model, passes="default", check=False).report
    assert report.before.macs == report.after.macs == 64 * 4 * 3 + 128 * 5 * 2
    assert not report.before.dynamic
