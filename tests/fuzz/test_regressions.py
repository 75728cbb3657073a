"""What mutated models have found, each as small as it gets. `*`: was a crash, a hang or worse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

import graphopt
from graphopt.cli import main
from graphopt.errors import GraphoptError, InputError, LimitError, VerifyError
from graphopt.ir.verify import verify
from graphopt.limits import max_memory, max_seconds
from graphopt.onnx import Reference
from tests.fuzz import models


def model(text: str, opset: int = 17) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')


MIN = np.array([-(2**31)], np.int32)
ONE = np.array([-1], np.int32)
DIVIDE = "(int32[1] x, int32[1] z) => (int32[1] y) { y = Div (x, z) }"


def test_onnxruntime_dies_and_we_do_not() -> None:
    """* ONNX Runtime ends with SIGFPE on INT_MIN / -1."""
    reference, other = Reference(model(DIVIDE)), Reference(model(DIVIDE.replace("Div", "Mul")))
    with pytest.raises(InputError, match=r"ONNX Runtime crashes on it \(SIGFPE\)"):
        reference.run({"x": MIN, "z": ONE})
    assert reference.run({"x": ONE, "z": ONE}) == {"y": [1]}
    assert other.run({"x": ONE, "z": ONE}) == {"y": [1]}


ENDLESS = """(float[8] x) => (float[8] y) { y = Loop (, , x) <body = b (int64 i, bool c, float[8] z)
    => (bool d, float[8] u) { d = Constant <value = bool {1}> ()  u = Relu (z) }> }"""
WIDE_SCAN = """(float[2] x) => (float[2] y) { y = Scan <num_scan_inputs = 1000000000,
    body = b (float z) => (float u) { u = Relu (z) }> (x) }"""


@pytest.mark.parametrize("text", [ENDLESS, WIDE_SCAN])
def test_a_run_has_an_end(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """* A Loop without end; onnx.reference makes a list of num_scan_inputs."""
    monkeypatch.setenv("GRAPHOPT_MAX_SECONDS", "2")
    with pytest.raises(GraphoptError, match=r"takes over 2 s|needs more memory|can't"):
        Reference(model(text)).run({"x": np.zeros(8 if text is ENDLESS else 2, np.float32)})


BIG = {
    "a value": "(float[1] x) => (float[1] y) { s = Constant <value_ints = [1000000000000]> () "
               "e = Expand (x, s)  y = ReduceMax <axes = [0], keepdims = 1> (e) }",
    "the inputs": "(float[1000000, 1000000] x) => (float[1000000, 1000000] y) { y = Relu (x) }",
    "outputs to compare": "(float[100000000] x) => (float[100000000] y) { y = Relu (x) }",
    "a symbol": '(float["1000000000000*N"] x) => (float[M] y) { y = Relu (x) }',
    "found at run time": "(int64 n) => (int64 y) { z = Constant <value_int = 0> () "
        "o = Constant <value_int = 1> ()  k = Constant <value_int = 4000000000> () "
        "m = Add (n, k)  r = Range (z, m, o)  y = ReduceMax <keepdims = 0> (r) }",
}  # fmt: skip


@pytest.mark.parametrize("name", [*BIG])
def test_more_memory_than_the_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """* Before, the machine's memory was the limit."""
    monkeypatch.setenv("GRAPHOPT_MAX_MEMORY", "1")
    with pytest.raises(LimitError, match=r"--max-memory"):
        graphopt.optimize(model(BIG[name]))


def test_limits_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(BIG["a value"]).SerializeToString())
    command = ["opt", str(path), "--passes", "fold", "-o", str(tmp_path / "o.onnx"), "--check-each"]
    assert main([*command, "--max-memory", "0.5"]) == 4
    assert "over the limit of 0.5 GB (--max-memory)" in capsys.readouterr().err
    assert main(["--max-seconds=nan", *command]) == 2
    assert main([*command, "--max-memory"]) == 2
    assert "GRAPHOPT_MAX_MEMORY" not in os.environ
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("text", ["x", "-1", "0", "nan", "inf", "1e99"])
def test_limits_that_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, read in {"GRAPHOPT_MAX_MEMORY": max_memory, "GRAPHOPT_MAX_SECONDS": max_seconds}.items():
        monkeypatch.setenv(name, text)
        with pytest.raises(InputError, match="positive number"):
            read()
        monkeypatch.delenv(name)


@pytest.mark.parametrize("count", [10**9, 10**15, -1, 0])
def test_split_into_too_many(count: int) -> None:
    """* ONNX's shape inference reserves memory for num_outputs results."""
    text = f"(float[8] x) => (float[4] a, float[4] b) {{ a, b = Split <num_outputs = {count}> (x) }}"
    with pytest.raises(InputError, match="num_outputs is"):
        graphopt.load(model(text, 18))


def test_names_do_not_break_lines() -> None:
    wild = model("(float[1] x) => (float[1] y) { y = Relu (x) }")
    wild.graph.node[0].name = "a\nb\x1b[31m" + "c" * 5000
    wild.graph.node[0].op_type = "No\nSuch"
    with pytest.raises(InputError) as why:
        graphopt.load(wild)
    assert str(why.value).isprintable()
    assert len(str(why.value)) < 1100


def test_more_dimensions_than_numpy_has() -> None:
    wild = model("(float[1] x) => (float[1] y) { y = Add (x, w) }")
    wild.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "w"))
    wild.graph.initializer[0].dims.extend([1] * 70)
    with pytest.raises(InputError, match="dimensions"):
        graphopt.load(wild)


def test_sizes_beyond_64_bits() -> None:
    text = f"""(float[8] x) => (float[N] y) {{ p = Constant <value_ints = [{2**63 - 1}, {2**63 - 1}]> ()
        y = Pad (x, p) }}"""
    verify(graphopt.load(model(text)))
    with pytest.raises(GraphoptError):
        graphopt.optimize(model(text))


@pytest.mark.parametrize("to", [0, 8, 99, -1])
def test_cast_to_no_type(to: int) -> None:
    module = graphopt.load(model(f"(float[1] x) => (float[1] y) {{ y = Cast <to = {to}> (x) }}"))
    verify(module)  # it stays opaque; the reference refuses it


def test_a_size_that_comes_out_negative() -> None:
    text = '(float["N-5"] x) => (float["N-5"] y) { y = Relu (x) }'
    with pytest.raises(InputError, match=r"no size|don't fit"):
        graphopt.optimize(model(text))


def test_statistics_of_a_wrong_rank(tmp_path: Path) -> None:
    wild = models.model("conv")
    (m,) = (t for t in wild.graph.initializer if t.name == "m")
    m.dims.extend([1, 1])
    try:
        graphopt.optimize(wild)
    except GraphoptError:
        return
    pytest.fail("statistics of rank 3 were taken")


WINDOWS = [
    "conv{strides=(1,1),pads=(0,0),dilations=(1,1)}(%x, %w)",
    "conv{strides=(0,1),pads=(0,0,0,0),dilations=(1,1)}(%x, %w)",
    "conv_transpose{strides=(1,1),pads=(0,0,0,0),dilations=(1,1),output_padding=(0)}(%x, %w)",
    "max_pool{kernel=(2,2),strides=(1,1),pads=(0,0,0),dilations=(1,1)}(%x)",
]


@pytest.mark.parametrize("op", WINDOWS)
def test_windows_of_a_wrong_length(op: str) -> None:
    text = (f"graph @main(%x: f32[1,2,4,4], %w: f32[2,2,1,1]) {{\n  %y = {op} : f32[1,2,4,4]\n"
            "  return(%y)\n}\n")  # fmt: skip
    with pytest.raises((InputError, VerifyError)):
        verify(graphopt.parse(text))


def test_folding_counts_what_a_constant_really_takes() -> None:
    """* A constant of one number everywhere is small until something makes it whole."""
    text = """(float[1] x) => (float[1] y) { s = Constant <value_ints = [1000000000]> ()
        e = ConstantOfShape (s)  a = Constant <value_int = 0> ()  c = Softmax <axis = 0> (e)
        m = ReduceMax <axes = [0], keepdims = 1> (c)  y = Add (m, x) }"""
    code = f"""
import resource, graphopt
from onnx import parser
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
graphopt.optimize(parser.parse_model('''<ir_version: 8, opset_import: ["" : 17]> g {text}'''), check=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 or "over the limit" in done.stderr, done.stderr[-500:]


@pytest.mark.parametrize("shape", ["0, 4", "4, 0"])
def test_empty_tensors_compile(shape: str) -> None:
    text = f"(float[{shape}] x) => (float[{shape}] y) {{ y = Relu (x) }}"
    graphopt.optimize(model(text), target="x86")


def test_windows_larger_than_the_image_are_not_for_kernels() -> None:
    """* 10^12 additions, where ONNX Runtime clips the windows."""
    text = """(float[1, 1, 8, 8] x) => (float[A, B, C, D] y) { y = AveragePool <count_include_pad = 1,
        kernel_shape = [1000, 1000], pads = [999, 999, 999, 999]> (x) }"""
    result = graphopt.optimize(model(text), target="x86")
    assert result.report.fallback is not None


def test_sparse_constants_compile() -> None:
    """ONNX Runtime can't give a sparse constant to a kernel."""
    result = graphopt.optimize(models.model("constants"), target="x86")
    assert [c.ok for c in result.report.checks] == [True, True]


def test_inference_that_crashes_is_done_without() -> None:
    """* ONNX's shape inference follows a null pointer: EyeLike of a value without a type."""
    text = """(float[1] x) => (a, b) { a = custom.Thing (x)  b = EyeLike (a) }"""
    wild = model(text)
    wild.opset_import.add(domain="custom", version=1)
    verify(graphopt.load(wild))


def test_integer_matrix_products_stay() -> None:
    """ONNX Runtime has no Gemm of integers."""
    text = """(int32[2, 3] x, int32[2] c) => (int32[2, 2] y) { t = Transpose (x)  m = MatMul (x, t)
        y = Add (m, c) }"""
    assert all(c.ok for c in graphopt.optimize(model(text)).report.checks)


def test_softmax_of_integers() -> None:
    text = """(float[1] x) => (int64[3] y) { a = Constant <value_ints = [1, 2, 3]> ()
        y = Softmax (a) }"""
    verify(graphopt.optimize(model(text), check=False).module)


def test_telemetry_is_off(tmp_path: Path) -> None:
    """ONNX Runtime 1.31 leaves a file in the temporary folder and reports what it runs."""
    (tmp_path / "m.onnx").write_bytes(model(DIVIDE).SerializeToString())
    code = "import sys; from graphopt.onnx import Reference; Reference(sys.argv[1], optimize=True)"
    environment: dict[str, Any] = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path / "m.onnx")]
    subprocess.run(command, check=True, env=environment)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_an_opaque_op_that_can_not_be_computed() -> None:
    """A crash in folding declines the fold; the model stays as it is."""
    text = """(int32[1] x) => (int32[1] y) { a = Constant <value = int32[1] {-2147483648}> ()
        b = Constant <value = int32[1] {-1}> ()  c = Div (a, b)  y = Add (c, x) }"""
    module = graphopt.optimize(model(text), check=False).module
    verify(module)


def test_helper_types_are_read() -> None:
    wild = model("(float[1] x) => (float[1] y) { y = Relu (x) }")
    wild.graph.input[0].type.CopyFrom(helper.make_tensor_type_proto(99, [1]))
    with pytest.raises(InputError, match="no element type 99"):
        graphopt.load(wild)
