"""The text form: parse is the inverse of print, and every complaint shows its place."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import ParseError
from graphopt.ir import DType, Graph, Inline, Loc, Module, Op, Sym, TensorType
from graphopt.ir.builtin import Const, Opaque, Return
from graphopt.ir.parser import parse
from graphopt.ir.verify import verify
from graphopt.ops.elementwise import Add, Relu

EVERYTHING = """\
module "net \\"x\\"" opset "" 17 opset "com.microsoft" 1 meta "author" "me: //"
graph @main(%x: f32[N,3,(2*H+1)/2,?], %"input:0": seq<f32[*]>, %o: optional<seq<string[]>>, %m: map<i64, f32[]>) {
  %w = const rand 7 : f32[4,3,3,3]
  %s = const splat 0.5 : f16[1000,1000]
  %i = const dense [1, -2, 9223372036854775807] : i64[3]
  %f = const dense [0.1, nan, -inf, 1e-45] : f32[4]
  %b = const dense [true, false] : bool[2]
  %t = const dense ["a", "b c"] : string[2]
  %c = const dense [[1.0, -2.0]] : c64[1]
  %q = const dense [1, 2] : i4[2]
  %y = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} : f32[N,4,(2*H+1)/2,?] @ "/a//Conv+1", "b"
  %z = clip(%y) {lo=0.0,hi=6.0} : f32[N,4,(2*H+1)/2,?]
  %p = reorder(%w) : f32[4,3,3,3:ABcd16b16a]
  %k, %_k = opaque(%z, _, %f) {op_type=Foo,domain=com.acme,version=3,attrs=[[axis,1],[alpha,1.0],[names,["a b",c]],[raw,hex:00ff]]} : f32[*], ? @ "k" {
    graph @then_branch() {
      %inner = relu(%z) : f32[N,4,(2*H+1)/2,?]
      return(%inner) {names=[""]}
    }
    graph @else_branch(%a: i64[]) {
      return(%z)
    }
  }
  return(%k, %i) {names=["out:0",i]}
}
"""


def test_everything_round_trips_exactly() -> None:
    module = parse(EVERYTHING)
    text = module.to_text()
    assert parse(text).to_text() == text
    assert text == EVERYTHING


def test_everything_verifies() -> None:
    module = parse(EVERYTHING.replace("%p = reorder", "%p2 = reorder"))
    verify(module)


@pytest.mark.parametrize("dtype", [t for t in DType if t is not DType.string], ids=str)
@pytest.mark.parametrize("count", [5, 200])
def test_constants_of_every_type_reparse_to_the_same_bits(dtype: DType, count: int) -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 2 if dtype is DType.bool_ else 255, 16 * count, np.uint8)
    if dtype.bits >= 8:
        array = np.frombuffer(raw.tobytes(), dtype.numpy)[:count]
    else:
        low = -(1 << dtype.bits - 1) if dtype.name[0] == "i" else 0
        array = (raw[:count] % (1 << dtype.bits)).astype(np.int8)
        array = (array + low).astype(dtype.numpy) if dtype.is_int else array.view(dtype.numpy)
    graph = Graph()
    value = graph.insert(Op(Const(Inline(array)))).result
    graph.insert(Op(Return(("y",)), [value]))
    again = parse(Module(graph).to_text()).main.outputs[0].op
    assert again and isinstance(again.kind, Const)
    back = again.kind.data.numpy()
    assert back.dtype == array.dtype
    same = array.astype(np.complex128) if dtype.name[0] == "c" else array.astype(np.float64)
    np.testing.assert_array_equal(back.astype(same.dtype), same)  # NaN payloads aside, bit for bit


def test_names_are_made_unique_and_kept() -> None:
    graph = Graph([TensorType(DType.f32, (1,))], hints=["x"])
    values = [graph.args[0]]
    for hint in ("x", "x", "x_1", "a b", ""):
        values.append(graph.insert(Op(Relu(), [values[0]], hints=[hint])).result)
    graph.insert(Op(Return(), values))
    text = Module(graph).to_text()
    assert parse(text).to_text() == text
    assert len({line.split(" = ")[0] for line in text.splitlines() if " = " in line}) == 5


def test_locations_keep_names_with_plus_and_quotes() -> None:
    graph = Graph([TensorType(DType.f32, (1,))])
    op = graph.insert(Op(Relu(), graph.args, loc=Loc(("a+b", 'q"', "//c"))))
    graph.insert(Op(Return(), op.results))
    again = parse(Module(graph).to_text()).main.first
    assert again and again.loc.nodes == ("a+b", 'q"', "//c")


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("graph @g(%x: f33[1]) { return(%x) }", "1:14", "unknown element type 'f33'; did you mean"),
        ("graph @g() { return(%x) }", "1:21", "%x is used before it is defined"),
        ("graph @g(%x: f32[1]) {\n %y = rleu(%x)\n return(%y) }", "2:7", "unknown op 'rleu'; did you mean 'relu'?"),
        ("graph @g(%x: f32[1]) { %x = relu(%x) return(%x) }", "1:24", "defined twice"),
        ("graph @g(%x: f32[1]) { %y = clip(%x) {low=1} return(%y) }", "1:39", "no option 'low'"),
        ("graph @g(%x: f32[1]) { %y = clip(%x) {lo=a} return(%y) }", "1:42", "wants a number or an integer or none"),
        ("graph @g(%x: f32[1]) { %y = relu(%x, %x) return(%y) }", "1:29", "2 operands"),
        ("graph @g(%x: f32[2], %z: f32[3]) { %y = add(%x, %z) return(%y) }", "1:41", "do not broadcast"),
        ("graph @g(%x: f32[2]", "1:20", "expected"),
        ("graph @g() { %c = const dense [1, 2] : i8[3] return(%c) }", "1:40", "bad constant"),
        ("graph @g() { %c = const dense [300] : u8[1] return(%c) }", "1:39", "bad constant"),
        ('graph @g() { %c = const file "w" 0 : u8[1] return(%c) }', "1:38", "no folder"),
        ("graph @g() { %c = const elided : u8[1] return(%c) }", "1:25", "left out"),
        ("graph @g(%x: f32[1:aB16b]) { return(%x) }", "1:20", "layout aB16b has rank 2"),
        ("graph @g() { return() } extra", "1:25", "expected the end"),
        ("graph @g(%x: f32[1]) { ~ }", "1:24", "unexpected character"),
    ],
)  # fmt: skip
def test_errors_show_place_and_caret(text: str, where: str, why: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, "m.gir")
    message = str(caught.value)
    assert message.startswith(f"m.gir:{where}: ")
    assert why in message.splitlines()[0]
    assert message.splitlines()[2].strip() == "^"


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ParseError, match="nested deeper"):
        parse("graph @g(%x: " + "seq<" * 5000 + "f32[1]")


def test_elided_text_is_readable_and_refuses_to_parse() -> None:
    graph = Graph()
    big = graph.insert(Op(Const(Inline(np.ones(1000, np.float32))))).result
    one = graph.insert(Op(Add(), [big, big])).result
    graph.insert(Op(Return(("y",)), [one]))
    text = Module(graph).to_text(elide=True)
    assert "const elided : f32[1000]" in text
    with pytest.raises(ParseError, match="left out"):
        parse(text)


def test_symbolic_arithmetic_is_closed_under_strides() -> None:
    n = Sym("N")
    assert str(n.plus(3).floordiv(2).plus(1).floordiv(2)) == "(N+5)/4"
    assert n.times(2).floordiv(2) == n  # type: ignore[union-attr]
    for size in range(1, 50):
        assert (
            n.plus(3).floordiv(2).plus(1).floordiv(2).bind({"N": size})
            == ((size + 3) // 2 + 1) // 2
        )
    assert Sym.read("(2*H+1)/2") == Sym("H", 2, 1, 2)
    assert Sym.read("unk 0//2") == Sym("unk 0//2")


def test_opaque_attributes_keep_int_and_float_apart() -> None:
    kind = Opaque("Foo", attrs=(("a", 1), ("b", 1.0), ("c", (1.0, 2.0))))
    text = f"graph @g() {{ %y = opaque() {str(kind)[6:]} : f32[1] return(%y) }}"
    op = parse(text).main.first
    assert op and isinstance(op.kind, Opaque)
    assert [type(v) for _, v in op.kind.attrs] == [int, float, tuple]
    assert op.kind == kind
