"""How layouts are chosen: the cut against trying everything, on random networks and graphs."""

from __future__ import annotations

import random
import time
from itertools import product
from math import prod

import pytest

from graphopt.ir.builtin import Const
from graphopt.ir.core import Module, Op
from graphopt.ir.parser import parse
from graphopt.ir.printer import to_text
from graphopt.ir.verify import verify
from graphopt.ops.movement import Reorder
from graphopt.passes.group import is_constant
from graphopt.passes.layout import assign_layouts, cut, tags
from graphopt.passes.layout.cut import FIRST, SECOND, Cut
from graphopt.passes.layout.decide import Decided, Offers, decide
from graphopt.passes.layout.offer import Offer, dense
from graphopt.passes.layout.rules import offer

BLOCK = 16
WINDOW = "strides=[1,1],pads=[1,1,1,1],dilations=[1,1]"
FORMS = {
    "conv": f"conv({{a}}, %w) {{{{{WINDOW}}}}}",
    "pool": f"max_pool({{a}}) {{{{kernel=[3,3],{WINDOW}}}}}",
    "relu": "relu({a})",
    "add": "add({a}, {b})",
    "softmax": "softmax({a}) {{axis=1}}",
    "turn": "transpose({a}) {{perm=[0,1,3,2]}}",
    "excite": "squeeze_excite({a}, %u, %v)",
    "halves": "concat({a}, {b}) {{axis=2}}\n%h{i} = slice(%c{i}) {{starts=[0],ends=[6],axes=[2],steps=[1]}}",
}


def network(length: int, seed: int, kinds: list[str], channels: int = 20) -> Module:
    """Random ops that read any of the last dozen values of one shape."""
    rng = random.Random(seed)
    lines = [f"graph @main(%v0: f32[1,{channels},6,6]) {{",
             f"%w = const rand 1 : f32[{channels},{channels},3,3]",
             f"%u = const rand 2 : f32[4,{channels},1,1]", f"%v = const rand 3 : f32[{channels},4,1,1]"]  # fmt: skip
    for i in range(1, length):
        a, b = (f"%v{rng.randrange(max(0, i - 12), i)}" for _ in range(2))
        kind = rng.choice(kinds)
        made = FORMS[kind].format(a=a, b=b, i=i)
        if kind == "excite":
            lines += [f"%g{i} = {made}", f"%v{i} = mul({a}, %g{i})"]
        elif kind == "halves":
            lines += [f"%c{i} = {made}", f"%v{i} = add(%h{i}, {b})"]
        else:
            lines.append(f"%v{i} = {made}")
    return parse("\n".join([*lines, f"return(%v{length - 1}, %v{length - 2})", "}"]))


def offered(module: Module) -> dict[Op, Offer]:
    ops = [op for op in module.main if not isinstance(op.kind, Const)]
    return {op: offer(op, BLOCK) if op.results else dense(op) for op in ops}


def price(module: Module, offers: Offers, decided: Decided) -> int:
    """The cost of a decision, counted one op and one value at a time."""
    total = 0
    for op, found in offers.items():
        for choice, blocked in zip(found.choices, decided[op], strict=True):
            total += (choice.blocked if blocked else choice.dense) or 0
        total += found.mixed if len(set(decided[op])) > 1 else 0
    for value in [*module.main.args, *(r for op in offers for r in op.results)]:
        if not tags.may_be_blocked(value):
            continue
        made = value.op is not None and decided[value.op][offers[value.op].results[value.index]]
        for other in (True, False):  # one reorder for all users that want the other layout
            users = [u for u in value.uses if wants(u.op, u.index, offers, decided) is other]
            loose = [u for u in users if other and u.index in offers[u.op].loose]
            if made is not other and len(users) > len(loose):
                parts = (
                    value.use_count == 1
                    and value.op
                    and users[0].op.kind.name in ("relu", "add", "mul")
                )
                cost = tags.moved(value, BLOCK)
                total += cost + cost // 4 if parts else cost
    return total


def wants(op: Op, index: int, offers: Offers, decided: Decided) -> bool:
    choice = offers[op].operands[index]
    return choice is not None and decided[op][choice]


def options(offer: Offer) -> list[tuple[bool, ...]]:
    """The decisions that an op allows."""
    sides = [[b for b, cost in ((False, c.dense), (True, c.blocked)) if cost is not None]
             for c in offer.choices]  # fmt: skip
    return list(product(*sides))


def small(seed: int) -> tuple[Module, Offers]:
    """The longest of some networks whose decisions can all be tried."""
    for length in range(9, 1, -1):
        module = network(length, seed, list(FORMS), channels=[16, 20, 6][seed % 3])
        offers = offered(module)
        if prod(len(options(o)) for o in offers.values()) <= 2000:
            return module, offers
    raise AssertionError("even one op has too many decisions")


@pytest.mark.parametrize("seed", range(40))
def test_no_other_decision_costs_less(seed: int) -> None:
    module, offers = small(seed)
    tried = (
        dict(zip(offers, some, strict=True)) for some in product(*map(options, offers.values()))
    )
    least = min(price(module, offers, decided) for decided in tried)
    assert price(module, offers, decide(module.main, offers, BLOCK)) == least


@pytest.mark.parametrize("seed", range(50))
def test_a_cut_is_the_least_however_its_edges_come(seed: int) -> None:
    rng = random.Random(seed)
    nodes = range(10)
    ends = [rng.sample(nodes, 2) for _ in range(16)]
    edges = [(a, b, rng.choice([0, 1, 1, 2, 5])) for a, b in ends]
    ties = [(rng.choice(nodes[2:]), rng.choice(nodes[2:])) for _ in range(3)]
    least: dict[int, list[set[int]]] = {}
    for sides in product((False, True), repeat=8):
        first = {FIRST, *(n for n, s in zip(nodes[2:], sides, strict=True) if s)}
        if not any(a in first and b not in first for a, b in ties):
            cost = sum(c for a, b, c in edges if a in first and b not in first)
            least.setdefault(cost, []).append(first)
    found = side(edges, ties)
    assert found in least[min(least)]
    assert all(side(rng.sample(edges, 16), rng.sample(ties, 3)) == found for _ in range(5))


def test_what_an_end_outweighs_needs_no_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    # 4 pulls harder than all that leads out of it, and is then all that holds 3; 2 stays.
    edges = [(FIRST, 4, 9), (4, SECOND, 3), (4, 3, 5), (3, SECOND, 4), (FIRST, 2, 1), (2, SECOND, 2)]
    want = side([*edges, (2, 3, 1)], [])
    monkeypatch.setattr(cut, "nx", None)
    assert side([*edges, (2, 3, 1)], []) == want == {FIRST, 3, 4}
    with pytest.raises(AttributeError):  # each holds the other
        side([(FIRST, 2, 2), (2, 3, 3), (3, 2, 3), (3, SECOND, 1)], [])


def side(edges: list[tuple[int, int, int]], ties: list[tuple[int, int]]) -> set[int]:
    small = Cut()
    for _ in range(8):
        small.node()
    for a, b, capacity in edges:
        small.edge(a, b, capacity)
    for a, b in ties:
        small.tie(a, b)
    return small.first_side()


def laid_out(module: Module) -> str:
    assign_layouts(module.main, BLOCK)
    verify(module)
    return to_text(module)


@pytest.mark.parametrize("seed", range(10))
def test_the_same_graph_gets_the_same_layouts_once(seed: int) -> None:
    first = laid_out(network(60, seed, list(FORMS)))
    again = network(60, seed, list(FORMS))
    assert laid_out(again) == first
    assert assign_layouts(again.main, BLOCK) == 0
    assert to_text(again) == first


@pytest.mark.parametrize("seed", range(10))
def test_every_op_gets_what_its_kernel_reads(seed: int) -> None:
    module = network(60, seed, list(FORMS))
    laid_out(module)
    for op in module.main:
        x, tag = next((v for v in op.operands if v), None), f"aBcd{BLOCK}b"
        match op.kind.name:
            case "conv":
                assert x and (x.tensor.layout, op.result.tensor.layout) == (tag, tag)
            case "softmax":
                assert x and x.tensor.layout == op.result.tensor.layout == ""
            case "relu" | "squeeze_excite":
                assert x and x.tensor.layout == op.result.tensor.layout
            case "add":
                assert {v.tensor.layout for v in op.operands if v} == {op.result.tensor.layout}
            case "return":
                assert all(v and v.tensor.layout == "" for v in op.operands)
            case _:
                pass


def test_a_conversion_serves_all_users() -> None:
    module = network(80, 1, ["conv", "softmax"])
    laid_out(module)
    made = [op for op in module.main if isinstance(op.kind, Reorder) and not is_constant(op.result)]
    assert len({op.operands[0] for op in made}) == len(made)


def test_time_grows_with_the_graph() -> None:
    """Eight times the ops take at most three times as long each: regions are cut by themselves."""
    kinds = [*("relu", "add", "pool", "turn") * 6, "conv", "softmax"]

    def seconds(length: int) -> float:
        found: list[float] = []
        for _ in range(3):
            module = network(length, 1, kinds)
            began = time.process_time()
            assign_layouts(module.main, BLOCK)
            found.append(time.process_time() - began)
        return min(found)

    assert seconds(4000) < 3 * 8 * seconds(500)
