"""Session: whole bundles, with segments in ONNX Runtime, many threads, and every wrong input."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from graphopt.errors import GraphoptError, InputError, UnsupportedError
from graphopt.ir.types import Array, DType
from graphopt.runtime import Session, TensorSpec
from graphopt.targets import bundle
from graphopt.targets.bundle import Meta
from graphopt.targets.driver import toolchain
from graphopt.targets.program import (
    Arena,
    Buffer,
    Dynamic,
    FallbackCall,
    Input,
    KernelCall,
    Output,
    Place,
    Program,
    Weight,
    WeightData,
)

KERNELS = Path(__file__).parents[1] / "targets" / "kernels.c"
SHAPE = (3, 7)
W = np.arange(21, dtype=np.float32).reshape(SHAPE)
X = np.linspace(-1, 1, 21, dtype=np.float32).reshape(SHAPE)


def buffer(place: Place, name: str, dtype: DType = DType.f32) -> Buffer:
    return Buffer(name, dtype, SHAPE, place)


def kernels_program() -> Program:
    """Y = 2x + w."""
    buffers = (
        buffer(Input(0), "x"),
        buffer(Arena(0), "t"),
        buffer(Weight(0), "w"),
        buffer(Output(0), "y"),
    )
    steps = (
        KernelCall("parallel_twice", (0, 1), ("/mul",), 21),
        KernelCall("add", (1, 2, 3), ("/add1", "/add2")),
    )
    weights = (WeightData(0, W.nbytes, lambda: W),)
    return Program("small", buffers, (0,), (3,), steps, (), weights, 128, 128)


def segment(op: str, inputs: list[str], outputs: list[str], *, dynamic: bool = False) -> bytes:
    """A model of one op on float tensors."""
    shape = [None] if dynamic else SHAPE
    ins, outs = (
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in names]
        for names in (inputs, outputs)
    )
    graph = helper.make_graph([helper.make_node(op, inputs, outputs)], "segment", ins, outs)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


def mixed_program() -> Program:
    """Y = -(2x) + w; z = the positive part of x, by segments that pass a sequence on."""
    buffers = (
        buffer(Input(0), "x"),
        buffer(Arena(0), "t"),
        buffer(Arena(128), "u"),
        buffer(Weight(0), "w"),
        buffer(Output(0), "y"),
        Buffer("seq", DType.f32, (), Dynamic()),
        Buffer("z", DType.f32, (), Dynamic()),
    )
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    value = helper.make_tensor_value_info
    make = helper.make_graph(
        [
            helper.make_node("Relu", ["a"], ["p"]),
            helper.make_node("SequenceConstruct", ["p"], ["s"]),
        ],
        "make",
        [value("a", TensorProto.FLOAT, SHAPE)],
        [sequence],
    )
    take = helper.make_graph(
        [helper.make_node("ConcatFromSequence", ["s"], ["c"], axis=0)],
        "take",
        [sequence],
        [value("c", TensorProto.FLOAT, None)],
    )
    opset = [helper.make_opsetid("", 17)]
    models = [helper.make_model(g, opset_imports=opset, ir_version=9) for g in (make, take)]
    steps = (
        KernelCall("twice", (0, 1)),
        FallbackCall(segment("Neg", ["a"], ["b"]), (("a", 1),), (("b", 2),), ("/neg",)),
        FallbackCall(models[0].SerializeToString(), (("a", 0),), (("s", 5),)),
        KernelCall("add", (2, 3, 4)),
        FallbackCall(models[1].SerializeToString(), (("s", 5),), (("c", 6),)),
    )
    weights = (WeightData(0, W.nbytes, lambda: W),)
    return Program("mixed", buffers, (0,), (4, 6, 3), steps, (), weights, 128, 256)


Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    folder = tmp_path_factory.mktemp("bundles")
    args = ["-O2", "-fPIC", "-c", str(KERNELS), "-o", "kernels.o"]
    toolchain.run(toolchain.find(), args, folder)
    count = iter(range(1000))

    def make(program: Program, meta: Meta | None = None, out: Path | None = None) -> Path:
        out = out or folder / f"{next(count)}.graphopt"
        files: dict[str, bundle.Content] = {"report.html": b"<html>"}
        objects = [folder / "kernels.o"]
        bundle.write(program, objects, out, model=b"model", meta=meta or Meta(), files=files)
        return out

    return make


@pytest.fixture(scope="module")
def small(write: Write) -> Path:
    return write(kernels_program())


@pytest.fixture(scope="module")
def mixed(write: Write) -> Path:
    return write(mixed_program())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_run(small: Path, threads: int) -> None:
    with Session(small, threads) as session:
        assert session.inputs == (TensorSpec("x", "float32", SHAPE),)
        assert session.outputs == (TensorSpec("y", "float32", SHAPE),)
        first = session.run({"x": X})["y"]
        second = session.run({"x": X + 1})["y"]
    np.testing.assert_array_equal(first, 2 * X + W)
    np.testing.assert_array_equal(second, 2 * (X + 1) + W)


def test_inputs_of_any_layout(small: Path) -> None:
    raw = np.zeros(X.nbytes + 68, np.uint8)
    shift = -raw.ctypes.data % 64 + 4
    unaligned = raw[shift : shift + X.nbytes].view(np.float32).reshape(SHAPE)
    unaligned[:] = X
    readonly = X.copy()
    readonly.flags.writeable = False
    wide = np.repeat(X, 2, axis=1)[:, ::2]
    with Session(small) as session:
        for x in (unaligned, np.asfortranarray(X), wide, readonly, X.astype(">f4"), X[::-1][::-1]):
            np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * X + W)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "no input 'x' was given: the model takes 'x'"),
        ({"x": X, "z": X}, "there is no input 'z': the model takes 'x'"),
        ({"x": X.T}, "has shape 7x3, and the model takes 3x7"),
        ({"x": X[0]}, "has shape 7, and"),
        ({"x": np.float32(1)}, "has shape a scalar"),
        ({"x": X.astype(np.float64)}, "'x' is float64, and the model takes float32"),
        ({"x": "text"}, "and the model takes float32"),
        ({"x": [[1.0], [1.0, 2.0]]}, "'x' is no array: .* inhomogeneous"),
        (None, "inputs is to be arrays by input name, in a dict, not None"),
        ([X], "in a dict, not "),
        (X, "in a dict, not "),
    ],
)
def test_wrong_inputs(small: Path, inputs: Any, words: str) -> None:
    with Session(small) as session:
        for run in (session.run, session.timed_run, session.profile):
            with pytest.raises(InputError, match=words):
                run(inputs)


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        (None, {}, "a session's bundle is to be a path, not None"),
        (5, {}, "a path, not 5"),
        (b"bundle", {}, "a path, not b'bundle'"),
        ("a\0b", {}, "a path, not"),
        (".", {"threads": 0}, "threads is to be an integer from 1 to 1048576, not 0"),
        (".", {"threads": 1.5}, "threads is to be an integer .* not 1.5"),
        (".", {"threads": "2"}, "threads is to be an integer .* not '2'"),
        (".", {"threads": 1 << 40}, "threads is to be an integer"),
        (".", {"contexts": -1}, "contexts is to be an integer .* not -1"),
        (".", {"contexts": None}, "contexts is to be an integer .* not None"),
    ],
)
def test_wrong_arguments(path: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Session(path, **options)


def test_no_repeats_are_no_profile(small: Path) -> None:
    with Session(small) as session, pytest.raises(InputError, match="repeats is to be"):
        session.profile({"x": X}, 0)


@pytest.mark.parametrize("contexts", [1, 2])
def test_one_session_in_many_threads(small: Path, contexts: int) -> None:
    with Session(small, 2, contexts=contexts) as session:
        assert not _run_many([session] * 6)


def test_many_sessions_in_many_threads(small: Path, mixed: Path) -> None:
    sessions = [Session(small, n) for n in (1, 2, 5)] + [Session(mixed, 1)]
    assert not _run_many(sessions)
    for session in sessions:
        session.close()


def _run_many(sessions: list[Session]) -> list[int]:
    wrong: list[int] = []

    def run(index: int, session: Session) -> None:
        x = X + index
        sign = -2 if session.manifest.name == "mixed" else 2
        for _ in range(100):
            if not np.array_equal(session.run({"x": x})["y"], sign * x + W):
                wrong.append(index)

    threads = [threading.Thread(target=run, args=(i, s)) for i, s in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def test_closing_waits_for_runs(write: Write) -> None:
    buffers = (buffer(Input(0), "x"), buffer(Output(0), "y"))
    path = write(Program("slow", buffers, (0,), (1,), (KernelCall("slow", (0, 1)),)))
    session = Session(path, 2)
    results: list[Array] = []
    thread = threading.Thread(target=lambda: results.append(session.run({"x": X})["y"]))
    thread.start()
    while session._contexts._free.qsize():  # pyright: ignore[reportPrivateUsage] # until the run began
        pass
    session.close()
    session.close()
    thread.join()
    np.testing.assert_array_equal(results[0], 2 * X)
    with pytest.raises(InputError, match="the session is closed"):
        session.run({"x": X})


def test_segments_between_kernels(mixed: Path) -> None:
    with Session(mixed, 2) as session:
        shapes = {spec.name: spec.shape for spec in session.outputs}
        assert shapes == {"y": SHAPE, "z": None, "w": SHAPE}
        for x in (X, X - 3):
            outputs = session.run({"x": x})
            np.testing.assert_array_equal(outputs["y"], -2 * x + W)
            np.testing.assert_array_equal(outputs["z"], np.maximum(x, 0))
            np.testing.assert_array_equal(outputs["w"], W)


def test_the_last_step_is_a_segment(write: Write) -> None:
    buffers = (buffer(Input(0), "x"), buffer(Output(0), "y"))
    steps = (FallbackCall(segment("Neg", ["a"], ["b"]), (("a", 0),), (("b", 1),)),)
    path = write(Program("neg", buffers, (0,), (1, 0), steps), Meta(outputs=_specs("y", "same")))
    with Session(path) as session:
        outputs = session.run({"x": X})
    np.testing.assert_array_equal(outputs["y"], -X)
    np.testing.assert_array_equal(outputs["same"], X)


def _specs(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(n, "float32", SHAPE) for n in names)


def test_dynamic_inputs(write: Write) -> None:
    buffers = (Buffer("x", DType.f32, (), Dynamic()), Buffer("y", DType.f32, (), Dynamic()))
    model = segment("Neg", ["x"], ["y"], dynamic=True)
    steps = (FallbackCall(model, (("x", 0),), (("y", 1),)),)
    meta = Meta(inputs=(TensorSpec("x", "float32", ("N",)),))
    path = write(Program("dynamic", buffers, (0,), (1, 0), steps), dataclasses.replace(meta))
    with Session(path) as session:
        for n in (1, 5):
            x = np.arange(n, dtype=np.float32)
            outputs = session.run({"x": x})
            np.testing.assert_array_equal(outputs["y"], -x)
            assert not np.shares_memory(outputs["x"], x)
        with pytest.raises(InputError, match="has shape 1x1, and the model takes N"):
            session.run({"x": np.zeros((1, 1), np.float32)})


def test_strings_pass_through(write: Write) -> None:
    buffers = tuple(Buffer(n, DType.string, (), Dynamic()) for n in ("x", "y"))
    x, y = (helper.make_tensor_value_info(n, TensorProto.STRING, ["N"]) for n in ("x", "y"))
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    graph = helper.make_graph([node], "strings", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    steps = (FallbackCall(model.SerializeToString(), (("x", 0),), (("y", 1),)),)
    path = write(Program("strings", buffers, (0,), (1,), steps))
    with Session(path) as session:
        words = np.array(["one", "two"], dtype=object)
        assert session.run({"x": words})["y"].tolist() == ["one", "two"] * 2


def test_a_segment_that_breaks_the_plan(write: Write) -> None:
    buffers = (buffer(Input(0), "x"), buffer(Output(0), "y", DType.f16))
    steps = (FallbackCall(segment("Neg", ["a"], ["b"]), (("a", 0),), (("b", 1),)),)
    path = write(Program("wrong", buffers, (0,), (1,), steps))
    with Session(path) as session, pytest.raises(GraphoptError, match="came out as float32"):
        session.run({"x": X})


def test_bfloat16(write: Write) -> None:
    buffers = (buffer(Input(0), "x", DType.bf16),)
    path = write(Program("bf16", buffers, (0,), (0,), ()), Meta(outputs=_specs("y")))
    x = X.astype(ml_dtypes.bfloat16)
    with Session(path) as session:
        y = session.run({"x": x})["y"]
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y, x)
        with pytest.raises(InputError, match="the model takes bfloat16"):
            session.run({"x": X})


def test_profile(small: Path, mixed: Path) -> None:
    with Session(small) as session:
        layers = session.profile({"x": X}, repeats=4)
    assert [(t.name, t.nodes, t.kernel, t.macs) for t in layers] == [
        ("/mul", ("/mul",), "parallel_twice", 21),
        ("/add2", ("/add1", "/add2"), "add", 0),
    ]
    assert all(len(t.ns) == 4 and min(t.ns) >= 0 and t.median_us >= 0 for t in layers)
    with Session(mixed) as session:
        kernels = [t.kernel for t in session.profile({"x": X}, repeats=2)]
    assert kernels == ["twice", "onnxruntime", "onnxruntime", "add", "onnxruntime"]


def test_without_onnxruntime(small: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    Session(small).close()
    with pytest.raises(UnsupportedError, match="pip install onnxruntime"):
        Session(mixed)


def test_a_session_needs_little(small: Path) -> None:
    code = (
        "import sys; from graphopt.runtime import Session\n"
        f"Session({str(small)!r})\n"
        "print([m for m in ('tvm', 'onnx', 'onnxruntime', 'jinja2') if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_forked_child_can_run(small: Path) -> None:
    with Session(small, 3) as session:
        session.run({"x": X})
        child = os.fork()
        if child == 0:  # it starts threads of its own
            same = np.array_equal(session.run({"x": X})["y"], 2 * X + W)
            session.close()
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
