"""`graphopt profile`: the numbers fit together, the names are the user's, the files are valid."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import InputError, UnsupportedError
from graphopt.targets.driver import toolchain

Cli = Callable[..., Any]
X = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
QUICK = ("--runs", 5)


def mixed_model() -> bytes:
    """A convolution, a CumSum of a dynamic axis (which has no kernel), a product."""
    rng = np.random.default_rng(0)
    weights = {"w": (8, 3, 3, 3), "b": (8, 4)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Unique", ["f"], ["u", "", "inverse", ""], "unique"),
        helper.make_node("Gather", ["u", "inverse"], ["g"], "gather"),
        helper.make_node("Reshape", ["g", "shape"], ["r"], "reshape"),
        helper.make_node("MatMul", ["r", "b"], ["y"], "product"),
    ]
    constants = [
        numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n)
        for n, s in weights.items()
    ]
    constants.append(numpy_helper.from_array(np.array([1, 8], np.int64), "shape"))
    graph = helper.make_graph(
        nodes, "mixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        constants,
    )  # fmt: skip
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small: bytes) -> Path:
    """A folder with the bundles small.graphopt and mixed.graphopt; not to be changed."""
    from graphopt.cli import main

    folder = tmp_path_factory.mktemp("made")
    for name, model in (("small", small), ("mixed", mixed_model())):
        (folder / f"{name}.onnx").write_bytes(model)
        words = ["optimize", folder / f"{name}.onnx", "--target", "x86", "--json"]
        assert main([*map(str, words), "-o", str(folder / f"{name}.graphopt")]) == 0
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; gives the one with the bundles."""
    monkeypatch.chdir(tmp_path)
    return made


def nodes_of(path: Path) -> set[str]:
    return {node.name for node in onnx.load(path).graph.node}  # pyright: ignore


@pytest.mark.parametrize("name", ["small", "mixed"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_numbers_fit_together(cli: Cli, here: Path, name: str, threads: int) -> None:
    done = cli("profile", here / f"{name}.graphopt", "--json", "--threads", threads, *QUICK)
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert told["graphopt_profile"] == 1
    assert (told["name"], told["target"]) == (name, "x86")
    assert (told["threads"], told["rounds"]) == (threads, 5)
    layers = told["layers"]
    manifest = json.loads((here / f"{name}.graphopt" / "manifest.json").read_text())
    assert [n["index"] for n in layers] == list(range(len(manifest["layers"])))
    assert [n["kernel"] for n in layers] == [n["kernel"] for n in manifest["layers"]]
    assert sum(n["share"] for n in layers) == pytest.approx(1)
    assert sum(n["us"] for n in layers) == pytest.approx(told["layers_us"])
    for n in layers:
        assert 0 < n["min_us"] <= n["us"] <= n["p90_us"]
        assert n["gflops"] == pytest.approx(n["flops"] / n["us"] / 1e3)
        assert n["gbs"] == pytest.approx(n["bytes"] / n["us"] / 1e3)
        assert n["results"]
    assert sum(f["us"] for f in told["families"]) == pytest.approx(told["layers_us"])
    assert sum(f["layers"] for f in told["families"]) == len(layers)


def test_layers_are_named_by_the_users_nodes(cli: Cli, here: Path) -> None:
    for name in ("small", "mixed"):
        told = json.loads(cli("profile", here / f"{name}.graphopt", "--json", *QUICK).out)
        nodes = nodes_of(here / f"{name}.onnx")
        for n in told["layers"]:
            assert n["nodes"]
            assert n["name"] == n["nodes"][-1]
            assert set(n["nodes"]) <= nodes
    mixed = {n["family"]: n["nodes"] for n in told["layers"]}
    assert "unique" in mixed["onnxruntime"]
    assert mixed["conv"] == ["conv"]


def test_work_is_counted_by_hand(cli: Cli, here: Path) -> None:
    """conv1 + norm1 + relu1: 64 pixels, 8 channels, 27 taps, a bias and a relu an element."""
    told = json.loads(cli("profile", here / "small.graphopt", "--json", *QUICK).out)
    first = told["layers"][0]
    assert first["macs"] == 64 * 8 * 27
    assert first["flops"] == 2 * first["macs"] + 2 * 64 * 8
    assert first["bytes"] >= 4 * (3 * 64 + 8 * 64 + 8 * 27 + 8)
    assert first["ops"][0] == "conv"
    assert first["ops"][-1] == "relu"
    assert (first["unit"], first["operands"][0]) == ("f32", "f32[1,3,8,8]")


def test_the_roofline_is_measured_kept_and_bounds(
    cli: Cli, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ("profile", here / "small.graphopt", "--json", "--threads", 1, *QUICK)
    told = json.loads(cli(*command).out)
    roofline = told["roofline"]
    assert roofline["threads"] == 1
    assert roofline["peaks"]["f32"] > 1
    sizes, rates = zip(*roofline["bandwidth"], strict=True)
    assert list(sizes) == sorted(sizes)
    assert rates[-1] < rates[0]
    for n in told["layers"]:
        least = max(n["flops"] / roofline["peaks"]["f32"] / 1e3, 0)
        assert n["bound"] in ("compute", "memory")
        assert n["roofline_us"] >= least * (1 - 1e-9)
        assert n["roofline"] == pytest.approx(n["roofline_us"] / n["us"])
    second = json.loads(cli(*command).out)["roofline"]
    assert second == roofline or not roofline["steady"]  # measured again, where this machine is busy
    (kept,) = (tmp_path / "cache" / "graphopt" / "roofline").iterdir()
    kept.write_text("{}")  # damaged: measured again
    again = json.loads(cli(*command).out)["roofline"]
    assert again["peaks"]["f32"] == pytest.approx(roofline["peaks"]["f32"], rel=0.9)
    assert json.loads(cli(*command, "--remeasure").out)["roofline"] != again


def test_without_a_compiler_there_is_no_roofline(
    cli: Cli, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(triple: str | None = None) -> toolchain.Toolchain:
        raise UnsupportedError("no C compiler (cc) was found")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(toolchain, "find", none)
    told = json.loads(cli("profile", here / "small.graphopt", "--json", *QUICK).out)
    assert told["roofline"] is None
    assert told["notes"][0] == "no roofline: no C compiler (cc) was found"
    assert all(n["roofline"] is None and n["us"] > 0 for n in told["layers"])
    assert "no C compiler" in cli("profile", here / "small.graphopt", *QUICK).out


def test_the_screen(cli: Cli, here: Path) -> None:
    np.savez("x.npz", x=X)
    bundle = here / "small.graphopt"
    out = cli("profile", bundle, "--input", "x.npz", "--threads", 1, "--seconds", 0.05).out
    for text in (
        "classifier",
        "kernel family",
        "GFLOP/s",
        "threads: 1",
        "of the roofline",
        "a run as its caller sees it",
    ):
        assert text in out
    short = cli("profile", bundle, "--top", 1, *QUICK).out
    assert "more" in short
    lines = cli("profile", bundle, "--order", "program", "--details", *QUICK).out.splitlines()
    assert lines[1].startswith("relu1")
    assert lines[2].strip() == "conv1 + norm1 + relu1"
    assert any("f32[1,3,8,8]" in line for line in lines)


def test_the_trace_is_chromes(cli: Cli, here: Path) -> None:
    assert cli("profile", here / "mixed.graphopt", "--trace", "t/trace.json", *QUICK).code == 0
    told = json.loads(Path("t/trace.json").read_text())
    events = told["traceEvents"]
    names = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert names == ["median run", "fastest run", "slowest run"]
    for pid in (1, 2, 3):
        spans = [e for e in events if e["ph"] == "X" and e["pid"] == pid]
        assert {"conv", "product"} <= {e["name"] for e in spans}
        ends = 0.0
        for e in spans:
            assert e["ts"] >= ends - 1e-6
            ends = e["ts"] + e["dur"]
        assert {e["tid"] for e in spans} == {1, 2}
    assert all(set(e) >= {"ph", "pid", "tid", "name", "ts"} for e in events)
    assert list(Path("t").iterdir()) == [Path("t/trace.json")]


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_and_the_report_have_charts(cli: Cli, here: Path) -> None:
    assert cli("profile", here / "mixed.graphopt", "--html", "p.html", *QUICK).code == 0
    for text in (
        Path("p.html").read_text("utf-8"),
        (here / "mixed.graphopt" / "report.html").read_text("utf-8"),
    ):
        page = _Page()
        page.feed(text)
        assert not page.open
        assert page.seen.count("svg") >= 2
        assert "circle" in page.seen
        assert "product" in text
        assert "http" not in text


def test_from_python(here: Path) -> None:
    found = graphopt.profile(here / "small.graphopt", {"x": X}, threads=2, runs=3)
    assert found.rounds == 3
    assert found.threads == 2
    assert [n.index for n in found.layers] == list(range(len(found.layers)))
    assert found.ranked()[0].us == max(n.us for n in found.layers)
    assert found.run_us > 0
    with pytest.raises(InputError, match="is to be"):
        graphopt.profile(here / "small.graphopt", {"x": X}, runs=0)
    with pytest.raises(InputError, match="has shape 1x2x8x8"):
        graphopt.profile(here / "small.graphopt", {"x": X[:, :2]}, runs=1)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("small.onnx",), 2, "is not a bundle"),
        (("small.graphopt", "--trace", "/proc/version/t.json"), 2, "is not a folder"),
        (("small.graphopt", "--order", "size"), 2, "--order"),
        (("small.graphopt", "--seconds", "0"), 2, "--seconds"),
        (("small.graphopt", "--input", "none.npz"), 2, "no such file"),
    ],
)
def test_wrong_usage_is_one_sentence(
    cli: Cli, here: Path, words: tuple[str, ...], code: int, text: str
) -> None:
    done = cli("profile", here / words[0], *words[1:])
    assert (done.code, done.out) == (code, "")
    assert text in done.err
    assert done.err.count("\n") == 1


def test_a_bundle_for_another_cpu_is_refused(
    cli: Cli, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from graphopt.runtime.manifest import SEAL_KEY, seal

    copy = shutil.copytree(here / "small.graphopt", tmp_path / "b")
    fields = json.loads((copy / "manifest.json").read_text())
    del fields[SEAL_KEY]
    (copy / "manifest.json").write_text(seal({**fields, "cpu_features": ["amx9"]}))
    done = cli("profile", copy, *QUICK)
    assert done.code == 3
    assert "needs a CPU with amx9" in done.err


def test_an_older_bundle_lacks_bytes_and_says_so(cli: Cli, here: Path, tmp_path: Path) -> None:
    import shutil

    from graphopt.runtime.manifest import SEAL_KEY, seal

    copy = shutil.copytree(here / "small.graphopt", tmp_path / "b")
    fields = json.loads((copy / "manifest.json").read_text())
    del fields[SEAL_KEY]
    fields["layers"] = [
        {k: n[k] for k in ("name", "nodes", "kernel", "macs")} for n in fields["layers"]
    ]
    (copy / "manifest.json").write_text(seal(fields))
    told = json.loads(cli("profile", copy, "--json", *QUICK).out)
    assert any("optimize again" in note for note in told["notes"])
    assert told["layers"][0]["gflops"] > 0
    assert told["layers"][0]["roofline"] is None
