# pyright: basic
# Tables of cases of mixed types.
"""AMX: kernels on an emulation of the tiles, every bit; the machine code of the real ones.

On a CPU with AMX the kernels run as they are, too.
"""

from __future__ import annotations

import ctypes
import platform
import re
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.ir.parser import parse
from graphopt.ir.types import DType
from graphopt.ops.inverse import inverses
from graphopt.pipeline import Context as PassContext
from graphopt.pipeline import parse_pipeline, run_pipeline
from graphopt.runtime.native import Context, Library, addresses
from graphopt.runtime.tensors import aligned
from graphopt.targets import machine
from graphopt.targets.driver import toolchain
from graphopt.targets.driver.generate import generate
from graphopt.targets.program import Buffer, Input, Program
from graphopt.targets.tvm import amx, build
from graphopt.targets.x86 import X86
from tests import tilecheck
from tests.kernelcheck import HOST, check, random_arrays, runnable
from tests.targets.test_kernels_integer import numbers
from tests.tilecheck import AMX

emulated = tilecheck.emulated  # a fixture
NATIVE = AMX.runs_on(HOST)
WIDE = [n for n in runnable() if machine.load(n).lanes == AMX.lanes]

PRODUCTS = [
    dict(m=32, k=64, n=32),
    dict(m=16, k=128, n=16),
    dict(m=197, k=192, n=80),
    dict(m=17, k=96, n=48),
    dict(m=5, k=320, n=64),
    dict(m=2, k=64, n=10),
    dict(m=33, k=40, n=23),
    dict(m=64, k=64, n=17, lead=(2, 3)),
    dict(m=100, k=512, n=128),  # more rows than the first cache keeps: tasks share panels
]
CONVS = [
    dict(ins=64, outs=64, size=(7, 7), kernel=1),
    dict(ins=64, outs=96, size=(7, 7), kernel=3, pad=1),  # tiles cross lines
    dict(ins=48, outs=24, size=(28, 28), kernel=3, pad=1),  # channels that fill no block
    dict(ins=80, outs=40, size=(13, 13), kernel=1),
    dict(ins=160, outs=32, size=(5, 5), kernel=3, pad=1, n=3),
    dict(ins=3, outs=32, size=(23, 40), kernel=7, pad=3, stride=2),  # a line of the window in a row
    dict(ins=3, outs=16, size=(20, 20), kernel=3, pad=1, stride=2, n=2),
    dict(ins=32, outs=32, size=(30, 9), kernel=3, pad=1, stride=3),
    dict(ins=64, outs=512, size=(6, 6), kernel=3, pad=1),  # a panel of weights at a time
    dict(ins=64, outs=48, size=(14, 14), kernel=3, pad=1),
    dict(ins=32, outs=32, size=(9, 33), kernel=3, pad=1, n=2),
    dict(ins=96, outs=16, size=(8, 11), kernel=1, n=2),
    dict(ins=128, outs=32, size=(12, 20), kernel=1, stride=2),
    dict(ins=64, outs=32, size=(11, 40), kernel=3, pad=2, stride=2, dilation=2),
    dict(ins=40, outs=32, size=(6, 18), kernel=5, pad=2),
    dict(ins=48, outs=40, size=(4, 4), kernel=2, pads=[0, 1, 1, 0]),  # one line of the border
    dict(ins=64, outs=32, size=(9, 9), kernel=3, stride=2, pads=[0, 0, 1, 1]),
]
PARTS = [  # of a line of the window, in a row of a tile
    dict(ins=3, outs=32, size=(48, 64), kernel=16, stride=16),
    dict(ins=16, outs=16, size=(9, 20), kernel=4, pad=1),
    dict(ins=6, outs=32, size=(20, 24), kernel=4, stride=2, pad=1),
]


def product(m, k, n, lead=()) -> str:
    """A product, its bias, and its requantization by column."""
    rows = ",".join(map(str, (*lead, m)))
    return f"""graph @k(%a: u8[{rows},{k}], %b: i8[{k},{n}:BA16b4a], %c: i32[{n}], %s: f32[{n}], %z: u8[]) {{
      %d = matmul_integer(%a, %b) : i32[{rows},{n}]
      %e = add(%d, %c) : i32[{rows},{n}]
      %q = requantize(%e, %s, %z) {{dtype=u8,axis={len(lead) + 1}}} : u8[{rows},{n}]
      return(%q)
    }}"""


def with_weights(text: str, per: int) -> str:
    """The text of a kernel with its convolution's weights as tiles want them."""
    (op,) = (o for o in parse(text.replace("TAG", "ABcd2b16a2b")).main if "conv" in o.kind.name)
    form = amx.form(op, per)
    assert form
    return text.replace("TAG", form.tag)


def result_size(size, pads, window, stride) -> tuple[int, ...]:
    """Lines and columns of a convolution's result."""
    return tuple((s + pads[i] + pads[i + 2] - window) // stride + 1 for i, s in enumerate(size))


def convolution(ins, outs, size, kernel, stride=1, pad=0, dilation=1, n=1, pads=None) -> str:
    """A convolution, its bias, and its requantization by channel."""
    first = "aBcd4b" if ins < 16 else "aBcd16b"
    pads = pads or [pad] * 4
    out = result_size(size, pads, dilation * (kernel - 1) + 1, stride)
    shape = f"[{n},{outs},{out[0]},{out[1]}:aBcd16b]"
    return with_weights(f"""graph @k(%x: u8[{n},{ins},{size[0]},{size[1]}:{first}],
             %w: i8[{outs},{ins},{kernel},{kernel}:TAG], %b: i32[{outs},1,1], %s: f32[{outs}], %z: u8[]) {{
      %c = conv_integer(%x, %w) {{strides=[{stride},{stride}],pads={pads},
        dilations=[{dilation},{dilation}],group=1,pad_value=119}} : i32{shape}
      %d = add(%c, %b) : i32{shape}
      %q = requantize(%d, %s, %z) {{dtype=u8,axis=1}} : u8{shape}
      return(%q)
    }}""", 4)


def looked_up(text: str) -> str:
    """The same, and its bytes by a table: what a dequantization and a quantization become."""
    found = re.search(r"\} : (u8\[[^\]]*\])\n\s*return", text)
    assert found
    text = text.replace("%z: u8[])", "%z: u8[], %t: u8[256])")
    return text.replace("return(%q)", f"%l = lookup(%q, %t) : {found[1]}\n return(%l)")


def residual(ins, outs, size, stride=1, n=1) -> str:
    """A convolution of pixels, and the sum of a residual, as bytes."""
    out = result_size(size, [0] * 4, 1, stride)
    shape = f"[{n},{outs},{out[0]},{out[1]}:aBcd16b]"
    return with_weights(f"""graph @k(%x: u8[{n},{ins},{size[0]},{size[1]}:aBcd16b], %w: i8[{outs},{ins},1,1:TAG],
             %b: i32[{outs},1,1], %s: f32[{outs}], %r: u8{shape}, %t: f32[], %i: f32[], %j: f32[], %z: u8[]) {{
      %c = conv_integer(%x, %w) {{strides=[{stride},{stride}],pads=[0,0,0,0],
        dilations=[1,1],group=1,pad_value=119}} : i32{shape}
      %d = add(%c, %b) : i32{shape}
      %e = dequantize(%d, %s) : f32{shape}
      %f = dequantize(%r, %t, %z) : f32{shape}
      %g = add(%e, %f) : f32{shape}
      %q = quantize_by_inverse(%g, %i, %j, %z) {{dtype=u8,small=true}} : u8{shape}
      return(%q)
    }}""", 4)


RESIDUALS = [
    dict(ins=64, outs=64, size=(14, 14)),  # pieces of a tile cross lines
    dict(ins=64, outs=32, size=(7, 7), n=2),
    dict(ins=128, outs=48, size=(13, 18), stride=2),
    dict(ins=64, outs=40, size=(9, 9)),  # channels that fill no block
]


@pytest.mark.skipif(not WIDE, reason="this CPU lacks AVX-512, which the rest of the kernel needs")
@pytest.mark.parametrize("case", RESIDUALS, ids=lambda c: "-".join(map(str, c.values())))
def test_residuals_of_bytes_on_emulated_tiles(case: dict, emulated: ctypes.CDLL) -> None:
    text = residual(**case)
    arrays = numbers(text)
    found = inverses(np.asarray(0.0173, np.float32), DType.u8)
    assert found
    arrays[5:8] = [np.asarray(0.0091, np.float32), *found]
    check(text, WIDE[0], arrays=arrays)
    assert emulated.amx_products() > 0


TEXTS = [*(product(**c) for c in PRODUCTS), *(convolution(**c) for c in CONVS)]
TEXTS += map(looked_up, (product(17, 96, 48), product(33, 40, 23), TEXTS[len(PRODUCTS) + 1]))
NAMES = ["-".join(map(str, c.values())) for c in (*PRODUCTS, *CONVS)]
NAMES += ["product-lookup", "columns-lookup", "conv-lookup"]


@pytest.mark.skipif(not WIDE, reason="this CPU lacks AVX-512, which the rest of the kernel needs")
@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_every_bit_on_emulated_tiles(text: str, emulated: ctypes.CDLL) -> None:
    check(text, WIDE[0], arrays=numbers(text))
    assert emulated.amx_products() > 0


@pytest.mark.skipif(not WIDE, reason="this CPU lacks AVX-512, which the rest of the kernel needs")
def test_sums_do_not_saturate(emulated: ctypes.CDLL) -> None:
    text = product(32, 64, 32)
    arrays = numbers(text)
    arrays[0][:], arrays[1][:] = 255, -128
    check(text, WIDE[0], arrays=arrays)


HALVES = [
    dict(m=32, k=64, n=32),
    dict(m=197, k=96, n=80),
    dict(m=5, k=48, n=10, lead=(2,)),
    dict(m=33, k=40, n=64, kind="gemm"),
    dict(m=70, k=384, n=64),
]


def halves(m, k, n, lead=(), kind="matmul") -> str:
    """A product of bfloat16 and an activation, or a gemm of transposed weights."""
    rows = ",".join(map(str, (*lead, m)))
    shape, tag = (f"{n},{k}", "AB16a2b") if kind == "gemm" else (f"{k},{n}", "BA16b2a")
    given, options = (", %c", " {trans_b=true}") if kind == "gemm" else ("", "")
    return f"""graph @k(%a: bf16[{rows},{k}], %b: bf16[{shape}:{tag}], %c: f32[{n}]) {{
      %x = cast(%a) {{to=f32}}
      %w = cast(%b) {{to=f32}} : f32[{shape}:{tag}]
      %d = {kind}(%x, %w{given}){options}
      %e = add(%d, %c)
      %y = relu(%e)
      return(%y)
    }}"""


@pytest.mark.skipif(not WIDE, reason="this CPU lacks AVX-512, which the rest of the kernel needs")
@pytest.mark.parametrize("case", HALVES, ids=lambda c: "-".join(map(str, c.values())))
def test_bfloat16_on_emulated_tiles(case: dict, emulated: ctypes.CDLL) -> None:
    """Exact products and float32 sums, in the instruction's order, not numpy's."""
    check(halves(**case), WIDE[0], tolerance=5e-6)
    assert emulated.amx_products() > 0


HALF_CONVS = [*CONVS, *PARTS, dict(ins=16, outs=32, size=(9, 20), kernel=3, pad=1)]


def half_convolution(ins, outs, size, kernel, stride=1, pad=0, dilation=1, n=1, pads=None) -> str:
    """A convolution of bfloat16, its bias, a residual and an activation, stored as bfloat16."""
    pads = pads or [pad] * 4
    out = result_size(size, pads, dilation * (kernel - 1) + 1, stride)
    first = "" if ins < 16 else ":aBcd16b"
    x, y = f"[{n},{ins},{size[0]},{size[1]}{first}]", f"[{n},{outs},{out[0]},{out[1]}:aBcd16b]"
    w = f"[{outs},{ins},{kernel},{kernel}:TAG]"
    return with_weights(f"""graph @k(%a: bf16{x}, %u: bf16{w}, %b: f32[{outs}], %r: bf16{y}) {{
      %x = cast(%a) {{to=f32}} : f32{x}
      %w = cast(%u) {{to=f32}} : f32{w}
      %c = conv(%x, %w, %b) {{strides=[{stride},{stride}],pads={pads},
        dilations=[{dilation},{dilation}],group=1}} : f32{y}
      %s = cast(%r) {{to=f32}} : f32{y}
      %d = add(%c, %s) : f32{y}
      %y = relu(%d) : f32{y}
      return(%y)
    }}""", 2)


@pytest.mark.skipif(not WIDE, reason="this CPU lacks AVX-512, which the rest of the kernel needs")
@pytest.mark.parametrize("case", HALF_CONVS, ids=lambda c: "-".join(map(str, c.values())))
def test_convolutions_of_bfloat16_on_emulated_tiles(case: dict, emulated: ctypes.CDLL) -> None:
    check(half_convolution(**case), WIDE[0], tolerance=5e-6)
    assert emulated.amx_products() > 0


ATTENTIONS = [
    dict(q=(2, 3, 37, 32), keys=37, width=32),
    dict(q=(3, 197, 64), keys=197, width=64),
    dict(q=(2, 16, 48), keys=70, width=80, scale=0.125),
    dict(q=(1, 2, 5, 20), keys=19, width=23, scale=0.3),
    dict(q=(2, 33, 64), keys=33, width=16, mask="33,33"),
    dict(q=(2, 3, 20, 32), keys=40, width=32, mask="2,1,1,40", lead=((1, 3), (2, 1))),
    dict(q=(40, 96), keys=64, width=96),
]
SHARES = 2.0**-9  # a weight that float32 rounds the other way than numpy, of the largest


def attention(q, keys, width, scale=1.0, mask="", lead=None) -> str:
    """An attention of bfloat16, and a residual after it."""
    of = [",".join(map(str, one)) + "," if one else "" for one in (lead or (q[:-2], q[:-2]))]
    y = ",".join(map(str, (*q[:-1], width)))
    extra, use = (f", %m: f32[{mask}]", ", %m") if mask else ("", "")
    return f"""graph @k(%q: bf16[{",".join(map(str, q))}], %k: bf16[{of[0]}{keys},{q[-1]}], %v: bf16[{of[1]}{keys},{width}], %r: f32[{y}]{extra}) {{
      %a = cast(%q) {{to=f32}}
      %b = cast(%k) {{to=f32}}
      %c = cast(%v) {{to=f32}}
      %y = attention(%a, %b, %c{use}) {{scale={scale},rounded=true}}
      %z = add(%y, %r)
      return(%z)
    }}"""


def check_attention(case: dict, name: str) -> None:
    """Sums as in products, and weights between 0 and 1 that are rounded the other way at times."""
    text = attention(**case)
    arrays = random_arrays(parse(text).main)
    arrays[0] = (arrays[0].astype(np.float32) / 4).astype(arrays[0].dtype)
    check(text, name, arrays=arrays, tolerance=SHARES)


@pytest.mark.skipif(not WIDE, reason="this CPU lacks AVX-512, which the rest of the kernel needs")
@pytest.mark.parametrize("case", ATTENTIONS, ids=lambda c: "-".join(map(str, c.values())))
def test_attention_on_emulated_tiles(case: dict, emulated: ctypes.CDLL) -> None:
    check_attention(case, WIDE[0])
    assert emulated.amx_products() > 0


@pytest.mark.skipif(not WIDE, reason="this CPU lacks AVX-512, which the rest of the kernel needs")
def test_attention_to_nothing_but_what_a_mask_leaves(emulated: ctypes.CDLL) -> None:
    """A mask of -inf leaves weights of exactly 0; where one weight is 1, v comes out as it is."""
    text = attention(q=(2, 19, 16), keys=19, width=16, mask="19,19")
    arrays = random_arrays(parse(text).main)
    arrays[3][:] = 0
    arrays[4] = np.where(np.eye(19, dtype=bool), 0, -np.inf).astype(np.float32)
    check(text, WIDE[0], arrays=arrays, tolerance=0.0)


@pytest.mark.skipif(not NATIVE, reason="this CPU has no AMX (amx_bf16 in /proc/cpuinfo)")
@pytest.mark.parametrize("case", ATTENTIONS, ids=lambda c: "-".join(map(str, c.values())))
def test_attention_on_tiles(case: dict) -> None:
    permit_tiles()
    check_attention(case, "amx")


@pytest.mark.skipif(not NATIVE, reason="this CPU has no AMX (amx_bf16 in /proc/cpuinfo)")
@pytest.mark.parametrize("case", HALF_CONVS, ids=lambda c: "-".join(map(str, c.values())))
def test_convolutions_of_bfloat16_on_tiles(case: dict) -> None:
    permit_tiles()
    check(half_convolution(**case), "amx", tolerance=5e-6)


@pytest.mark.skipif(not NATIVE, reason="this CPU has no AMX (amx_bf16 in /proc/cpuinfo)")
@pytest.mark.parametrize("case", HALVES, ids=lambda c: "-".join(map(str, c.values())))
def test_bfloat16_on_tiles(case: dict) -> None:
    permit_tiles()
    check(halves(**case), "amx", tolerance=5e-6)


@pytest.mark.skipif(not NATIVE, reason="this CPU has no AMX (amx_int8 in /proc/cpuinfo)")
@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_every_bit_on_tiles(text: str) -> None:
    permit_tiles()
    check(text, "amx", arrays=numbers(text))


def permit_tiles() -> None:
    """Ask Linux for the tiles: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)."""
    assert platform.machine() == "x86_64"
    assert ctypes.CDLL(None, use_errno=True).syscall(158, 0x1023, 18) == 0


MNEMONICS = {"ldtilecfg", "tileloadd", "tilestored", "tilezero", "tilerelease"}


@pytest.mark.parametrize(("text", "name"), [
    (TEXTS[2], "tdpbusd"), (TEXTS[len(PRODUCTS) + 1], "tdpbusd"), (halves(**HALVES[0]), "tdpbf16ps"),
    (half_convolution(**CONVS[1]), "tdpbf16ps"), (attention(**ATTENTIONS[1]), "tdpbf16ps"),
], ids=["product", "conv", "halves", "half conv", "attention"])  # fmt: skip
def test_machine_code(text: str, name: str) -> None:
    """It has the instructions of AMX that kernels ask for, and none of its later forms."""
    func = build.primfunc(parse(text).main, AMX, "k")
    code = build.compile_module({"k": func}, AMX).inspect_source("asm")
    assert set(re.findall(r"^\s+((?:ldtile|sttile|tile|td|tcmm|tcvt)\w+)", code, re.M)) == {
        *MNEMONICS,
        name,
    }
    assert "zmm" in code
    assert not re.search(r"^\s+v\w+(?:ph|sh)\s", code, re.M)  # AVX512-FP16, which isn't asked for


def test_weights_are_laid_out_for_tiles() -> None:
    """By the `tiles` pass, of convolutions that sum enough words, where the machine has AMX."""
    text = """graph @main(%x: f32[1,64,8,8]) {
      %s = const splat 0.1 : f32[]
      %z = const splat 0 : u8[]
      %q = quantize(%x, %s, %z) {dtype=u8}
      %w = const rand 1 : i8[64,64,3,3]
      %t = const splat 0.01 : f32[]
      %f = dequantize(%q, %s, %z)
      %g = dequantize(%w, %t)
      %c = conv(%f, %g) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}
      %r = quantize(%c, %s, %z) {dtype=u8}
      %y = dequantize(%r, %s, %z)
      return(%y) {names=[y]}
    }"""
    programs = {cpu: X86(cpu).lower(parse(text)) for cpu in ("avx512bf16", "amx")}
    texts = {cpu: "".join(k.text for k in p.kernels) for cpu, p in programs.items()}
    assert "ABcd16b16a4b" in texts["amx"]
    assert "ABcd16b16a4b" not in texts["avx512bf16"]
    assert {len(p.steps) for p in programs.values()} == {len(programs["amx"].steps)}


def test_products_of_bfloat16_are_laid_out_for_tiles() -> None:
    """Where both sides are rounded: `half{products=true}`."""
    text = """graph @main(%x: f32[32,64]) {
      %r = relu(%x)
      %w = const rand 1 : f32[64,64]
      %y = matmul(%r, %w)
      return(%y) {names=[y]}
    }"""
    found = {}
    for passes in ("half", "half{products=true}"):
        module = parse(text)
        run_pipeline(parse_pipeline(passes), module, PassContext())
        program = X86("amx").lower(module)
        found[passes] = "".join(k.text for k in program.kernels)
        assert len(program.steps) == 2
    assert "BA16b2a" in found["half{products=true}"]
    assert "BA16b2a" not in found["half"]


def test_convolutions_of_bfloat16_are_laid_out_for_tiles() -> None:
    text = """graph @main(%x: f32[1,64,8,8]) {
      %r = relu(%x)
      %w = const rand 1 : f32[64,64,3,3]
      %y = conv(%r, %w) {strides=[2,2],pads=[1,1,1,1],dilations=[1,1]}
      return(%y) {names=[y]}
    }"""
    module = parse(text)
    run_pipeline(parse_pipeline("half{products=true}"), module, PassContext())
    assert any("bf16[64,64,3,3:ABcd16b16a2b]" in k.text for k in X86("amx").lower(module).kernels)


def test_the_widest_machine_is_taken() -> None:
    assert machine.detect(frozenset(AMX.cpu_features)) == AMX
    assert machine.detect(frozenset({*AMX.cpu_features} - {"amx_int8"})).name == "avx512bf16"


@pytest.mark.skipif(NATIVE, reason="Linux gives tiles on this CPU")
def test_refused_tiles_end_in_a_sentence(tmp_path: Path) -> None:
    buffers = (Buffer("x", DType.f32, (4,), Input(0)),)
    program = Program("p", buffers, (0,), (0,), ())
    path = tmp_path / "libmodel.so"
    toolchain.link([], generate(program, amx=True), (), path, weight_bytes=0)
    context = Context(Library(path, "go"), 1)
    with pytest.raises(GraphoptError, match="Linux does not let this process use the tiles of AMX"):
        context.run(
            addresses([aligned((4,), np.dtype("float32"))]),
            addresses([aligned((4,), np.dtype("float32"))]),
            0,
            0,
        )
    context.close()
