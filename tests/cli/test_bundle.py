"""`graphopt optimize`, and the commands that take the bundle it makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import Session
from graphopt.api import default_passes
from graphopt.onnx import Reference
from graphopt.passes import PIPELINES
from graphopt.targets.base import parse_target

Cli = Callable[..., Any]
MODELS = sorted((Path(__file__).parent.parent.parent / "models").glob("*.onnx"))
X = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
X86 = ("--target", "x86")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small: bytes) -> Path:
    """A folder with small.onnx and its bundle, small.graphopt; not to be changed."""
    from graphopt.cli import main

    folder = tmp_path_factory.mktemp("made")
    (folder / "small.onnx").write_bytes(small)
    bundle = folder / "small.graphopt"
    assert main(["optimize", str(folder / "small.onnx"), *X86, "-o", str(bundle), "--json"]) == 0
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; gives the one with the bundle."""
    monkeypatch.chdir(tmp_path)
    return made


def test_optimize_prints_the_screen_and_writes_a_bundle(cli: Cli, model: Path) -> None:
    done = cli("optimize", "small.onnx", *X86)
    assert (done.code, done.err) == (0, "")
    for text in ("operators", "kernel calls", "latency", "the compiled bundle agrees",
                 "the optimized model.onnx agrees", "small.graphopt/", "libmodel.so",
                 "graphopt verify small.graphopt small.onnx"):  # fmt: skip
        assert text in done.out
    assert not any(line.endswith(" ") for line in done.out.splitlines())
    with Session("small.graphopt") as session:
        got = session.run({"x": X})["y"]
    np.testing.assert_allclose(got, Reference(model).run({"x": X})["y"], rtol=1e-4)
    onnx.checker.check_model("small.graphopt/model.onnx")  # pyright: ignore
    assert "Verified." in Path("small.graphopt/report.html").read_text("utf-8")


def test_optimize_again_replaces_the_bundle_and_nothing_else(cli: Cli, model: Path) -> None:
    (model.parent / "other.txt").write_text("mine")
    for _ in range(2):
        assert cli("optimize", model, *X86, "-o", "out").code == 0
    names = sorted(p.name for p in model.parent.iterdir())
    assert names == ["other.txt", "out", "small.onnx"]


def test_the_folder_that_one_is_in_takes_the_bundle(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays the same folder: a shell in it sees the files."""
    place = model.parent / "out"
    place.mkdir()
    monkeypatch.chdir(place)
    for _ in range(2):
        done = cli("optimize", model, *X86, "-o", ".")
        assert done.code == 0, done.err
        names = {p.name for p in Path(".").iterdir()}
        assert {"libmodel.so", "manifest.json", "model.onnx"} <= names
        assert "libmodel.so" in done.out
    assert sorted(p.name for p in model.parent.iterdir()) == ["out", "small.onnx"]


def test_an_output_whose_links_go_round_is_refused_before_any_work(cli: Cli, model: Path) -> None:
    Path("loop").symlink_to("loop")
    done = cli("optimize", model, *X86, "-o", "loop")
    assert (done.code, done.out) == (2, "")
    assert "loop can't be written: its links go round in a circle" in done.err


def test_optimize_json(cli: Cli, model: Path) -> None:
    np.savez("d.npz", x=np.repeat(X, 2, 0))
    done = cli("optimize", model, *X86, "-o", "out", "--json", "--data", "d.npz", "--threads", 1)
    told = json.loads(done.out)
    assert done.err == ""
    assert {"output", "total_seconds", "before", "after", "passes", "checks", "verified",
            "latency", "layers", "files", "fallback", "notes", "kernels", "calls", "seconds",
            "versions", "target", "pipeline", "model"} <= set(told)  # fmt: skip
    assert told["verified"] is True
    assert [c["data"] for c in told["checks"]] == ["given", "given"]
    assert [row["threads"] for row in told["latency"]] == [1, 1]
    assert set(told["layers"][0]) >= {"name", "nodes", "kernel", "us", "macs", "share"}


def test_optimize_debug_keeps_everything(cli: Cli, model: Path) -> None:
    assert cli("optimize", model, *X86, "--debug", "d").code == 0
    names = {p.name for p in Path("d").iterdir()}
    assert {"000_input.gir", "004_fuse.gir", "errors.txt", "remarks.txt", "timing.txt", "weights.bin",
            "program.txt"} <= names  # fmt: skip
    assert max(n for n in names if n.endswith(".gir")).endswith("_group.gir")
    page = Path("small.graphopt/report.html").read_text("utf-8")
    assert "<code>group</code>" in page


def test_optimize_that_differs_exits_1_and_leaves_no_bundle(cli: Cli, model: Path) -> None:
    done = cli("optimize", model, *X86, "--passes", "fold,test-wrong-relu")
    assert (done.code, done.out) == (1, "")
    assert "DIFFERS at output 'y'" in done.err
    assert done.err.count("\n") == 1
    assert [p.name for p in model.parent.iterdir()] == ["small.onnx"]


def test_optimize_that_crashes_leaves_no_bundle(cli: Cli, model: Path) -> None:
    done = cli("optimize", model, *X86, "--passes", "test-crash")
    assert done.code == 70
    assert "replay it with `graphopt opt" in done.err
    assert [p.name for p in model.parent.iterdir()] == ["small.onnx"]


def test_symbolic_batch_is_fixed_by_input_shape(cli: Cli, model: Path, batched: bytes) -> None:
    Path("b.onnx").write_bytes(batched)
    done = cli("optimize", "b.onnx", *X86, "--input-shape", "x=2x3x8x8", "--json")
    assert json.loads(done.out)["notes"] == []
    with Session("b.graphopt") as session:
        assert session.inputs[0].shape == (2, 3, 8, 8)
    noted = json.loads(cli("inspect", "b.onnx", "--json").out)["notes"]
    assert noted == ["the batch size 'N' of input 'x' is taken as 1"]


def test_run(cli: Cli, here: Path) -> None:
    np.savez("x.npz", x=X)
    done = cli("run", here / "small.graphopt", "--input", "x.npz", "--output", "y.npz")
    assert (done.code, done.out, done.err) == (0, "", "")
    wanted = Reference(here / "small.onnx").run({"x": X})["y"]
    np.testing.assert_allclose(np.load("y.npz")["y"], wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"z": X}, "no input 'x' was given"),
        ({"x": X, "z": X}, "there is no input 'z'"),
        ({"x": X[:, :2]}, "has shape 1x2x8x8"),
        ({"x": X.astype(np.float64)}, "is float64"),
    ],
)
def test_run_with_wrong_inputs(cli: Cli, here: Path, arrays: dict[str, Any], text: str) -> None:
    np.savez("x.npz", **arrays)
    done = cli("run", here / "small.graphopt", "--input", "x.npz", "--output", "y.npz")
    assert done.code == 2
    assert text in done.err
    assert done.err.count("\n") == 1
    assert not Path("y.npz").exists()


def test_verify(cli: Cli, here: Path) -> None:
    bundle, model = here / "small.graphopt", here / "small.onnx"
    done = cli("verify", bundle, model)
    assert (done.code, done.err) == (0, "")
    assert "the compiled bundle agrees" in done.out
    np.savez("d.npz", x=np.repeat(X, 3, 0))
    told = json.loads(cli("verify", bundle, model, "--data", "d.npz", "--json").out)
    assert told["verified"] is True
    assert [(c["data"], c["samples"]) for c in told["checks"]] == [("given", 3)] * 2


def test_verify_finds_another_model(cli: Cli, here: Path, small: bytes) -> None:
    other = onnx.load_from_string(small)
    (weight,) = (t for t in other.graph.initializer if t.name == "w3")
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) + 1).tobytes()
    Path("other.onnx").write_bytes(other.SerializeToString())
    done = cli("verify", here / "small.graphopt", "other.onnx", "--json")
    assert done.code == 1
    assert json.loads(done.out)["verified"] is False
    assert "DIFFERS" in done.err


def test_a_damaged_bundle_is_refused(cli: Cli, made: Path, model: Path) -> None:
    import shutil

    shutil.copytree(made / "small.graphopt", "b")
    library = Path("b/libmodel.so")
    library.write_bytes(library.read_bytes()[:-1] + b"\1")
    done = cli("verify", "b", model)
    assert done.code == 2
    assert "is damaged: libmodel.so" in done.err
    Path("b/manifest.json").write_text("{}")
    assert "b/manifest.json can't be used" in cli("inspect", "b").err


def test_inspect_model(cli: Cli, here: Path) -> None:
    told = json.loads(cli("inspect", here / "small.onnx", "--json").out)
    assert told["operators"] == 9
    assert told["parameters"] == 8 * 27 + 8 * 72 + 40 + 5 + 4 * 8
    assert told["macs"] == 64 * 8 * 27 + 64 * 8 * 72 + 40
    assert told["inputs"] == {"x": "f32[1,3,8,8]"}
    assert [row["kind"] for row in told["layers"]][:3] == ["conv", "batch_norm", "relu"]
    done = cli("inspect", here / "small.onnx", "--layers")
    assert "conv1" in done.out


def test_inspect_marks_counts_that_are_lower_bounds(cli: Cli, here: Path) -> None:
    path = here / "unknown.gir"
    path.write_text("""module "m" opset "" 17
graph @main(%x: f32[4,k]) {
  %t = transpose(%x) {perm=[1,0]} : f32[k,4]
  %y = matmul(%x, %t) : f32[4,4]
  return(%y) {names=[y]}
}
""")
    told = json.loads(cli("inspect", path, "--json").out)
    assert told["dynamic"] is True
    assert ">= 16" in cli("inspect", path).out
    fixed = cli("inspect", path, "--input-shape", "x=4x9", "--json")
    assert json.loads(fixed.out)["macs"] == 4 * 9 * 4


def test_inspect_bundle(cli: Cli, here: Path) -> None:
    told = json.loads(cli("inspect", here / "small.graphopt", "--json").out)
    assert told["kind"] == "bundle"
    assert told["kernel_calls"] + told["fallback_segments"] == len(told["layers"])
    assert {"libmodel.so", "manifest.json", "model.onnx", "report.html"} <= set(told["files"])
    assert "kernel calls" in cli("inspect", here / "small.graphopt", "--layers").out


def test_passes_and_targets(cli: Cli) -> None:
    told = json.loads(cli("passes", "--json").out)
    by_name = {p["name"]: p for p in told["passes"]}
    assert {"fold", "simplify", "cse", "fuse", "dce", "group", "layout"} <= set(by_name)
    assert by_name["fuse"]["effect"] == "reassociating"
    assert all(p["summary"] for p in told["passes"])
    assert told["pipelines"] == dict(PIPELINES)
    targets = json.loads(cli("targets", "--json").out)["targets"]
    assert [t["name"] for t in targets] == ["arm", "c", "x86"]
    assert "x86:avx2" in cli("targets").out
    shown = cli("passes").out
    assert "reassociating" in shown
    assert all(f"{name}: {text}" in shown for name, text in PIPELINES.items())


@pytest.mark.parametrize("name", PIPELINES)
def test_named_pipelines_stand_for_their_passes(name: str) -> None:
    passes = default_passes(f"{name},dce", None)
    assert ",".join(map(str, passes)) == f"{PIPELINES[name]},dce"
    assert default_passes(f"{name},dce", parse_target("x86")) == passes


@pytest.mark.parametrize("path", MODELS, ids=[p.stem for p in MODELS])
def test_real_models_through_inspect_and_opt(cli: Cli, path: Path, tmp_path: Path) -> None:
    before = json.loads(cli("inspect", path, "--json").out)
    assert before["operators"] > 0
    out = tmp_path / "o.onnx"
    done = cli("opt", path, "--passes", "default", "--check-each", "-o", out)
    assert done.code == 0, done.err
    assert json.loads(cli("inspect", out, "--json").out)["operators"] <= before["operators"]


@pytest.mark.parametrize("name", ["fmnist_resnet8"])
def test_a_real_model_through_optimize(cli: Cli, tmp_path: Path, name: str) -> None:
    (path,) = (p for p in MODELS if p.stem == name)
    data = path.parent / "data" / "fmnist.npz"
    done = cli("optimize", path, *X86, "-o", tmp_path / "b", "--data", data, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["checks"][1]["data"] == "given"
    assert cli("verify", tmp_path / "b", path, "--data", data).code == 0


FILTERED = """graph @main(%x: f32[1,64,20,20]) {
  %w = const rand 1 : f32[64,64,3,3]
  %c = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "first"
  %r = relu(%c) @ "relu"
  return(%r) {names=[y]}
}"""


def test_debug_goes_on_where_lowering_makes_what_onnx_has_no_op_for(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.gir").write_text(FILTERED)
    done = cli("optimize", tmp_path / "m.gir", *X86, "--debug", tmp_path / "d", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert any("conv_winograd" in p.read_text() for p in (tmp_path / "d").glob("*.gir"))


NAMELESS = """graph @main(%0: f32[1,8], %y: f32[1,8]) {
  %a = add(%0, %y)
  %r = relu(%a)
  return(%a, %r, %r, %y) {names=["",mine]}
}"""


def test_ends_without_a_name_get_one_and_all_are_verified(cli: Cli, tmp_path: Path) -> None:
    model, bundle = tmp_path / "m.gir", tmp_path / "out"
    model.write_text(NAMELESS)
    done = cli("optimize", model, *X86, "-o", bundle)
    assert done.code == 0, done.err
    told = json.loads((bundle / "manifest.json").read_text())
    assert [spec["name"] for spec in told["inputs"]] == ["in0", "y"]
    assert [spec["name"] for spec in told["outputs"]] == ["a", "mine", "r", "out3"]
    x, y = X.reshape(-1, 8)[:1], X.reshape(-1, 8)[1:2]
    with Session(bundle) as session:
        got = session.run({"in0": x, "y": y})
    wanted = {"a": x + y, "mine": np.maximum(x + y, 0), "r": np.maximum(x + y, 0), "out3": y}
    for name, want in wanted.items():
        np.testing.assert_array_equal(got[name], want)
    assert cli("verify", bundle, model).code == 0
