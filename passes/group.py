"""Group ops into kernels: one `fused` op (an anchor and its epilogue) is one kernel call."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.errors import UnsupportedError
from graphopt.ir.builtin import Const, Fused, Return
from graphopt.ir.clone import clone_op
from graphopt.ir.core import Graph, Loc, Module, Op, Value
from graphopt.ir.data import size
from graphopt.ir.layout import parse_layout, physical_shape
from graphopt.ir.types import DType, TensorType
from graphopt.ops.elementwise import Cast, Elementwise, Identity
from graphopt.ops.movement import (
    Concat,
    Pad,
    Reorder,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from graphopt.ops.quant import Dequantize, Scaled
from graphopt.passes.simplify.shuffles import channel_shuffle
from graphopt.pipeline import Ahead, Catalog, Context, Pass, PassResult
from graphopt.rewrite import Remark

VIEWS = (Reshape, Squeeze, Unsqueeze)
MOVES = (*VIEWS, Reorder, Transpose, Concat, Split, Slice, Pad)  # read each element once at most
LONGEST = 3  # kernels that may become one
MOST_MOVES = 16  # ops in a kernel: each read of its result goes through all of them


@dataclass(frozen=True)
class Group(Pass, name="group"):
    """Put every op that the target can compile into a `fused` op, with its element-wise users.

    A user joins when it is the only one, element-wise, and of the same type; so a convolution
    takes in bias, residual and activation. Ops that only move elements (reorder, concat, transpose,
    split) are one kernel with those that feed nothing else, so memory is passed over once. Ops
    that only rename dense memory (reshape) stay outside otherwise: they cost nothing. A channel
    shuffle joins the convolution that it feeds, if that reads channels in any order for nothing.
    What the target can't compile stays as it is.
    """

    def check(self, ahead: Ahead) -> None:
        """Raise UnsupportedError where there is no target (see `Pass.check`)."""
        if ahead.ctx.catalog is None:
            raise UnsupportedError("group needs a target: its kernels decide what can be grouped")

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Group the main graph."""
        self.check(Ahead(module, ctx))
        assert ctx.catalog
        own_outputs(module.main)
        own_floats(module.main)
        groups = list(_groups(module.main, ctx.catalog))
        remarks = [Remark("group", _loc(ops), True, f"{len(ops)} ops") for ops, _ in groups]
        for ops, family in groups:
            _fuse(module.main, ops, family)
        return PassResult(bool(groups), tuple(remarks))


def is_view(op: Op) -> bool:
    """Whether the op only gives memory another shape."""
    if isinstance(op.kind, Reorder):
        return _in_order(op.operand(0)) and _in_order(op.result)
    if not isinstance(op.kind, VIEWS):
        return False
    types = [op.operand(0).type, op.result.type]
    return all(isinstance(t, TensorType) and t.static is not None and not t.layout for t in types)


def _in_order(value: Value) -> bool:
    """Whether a layout keeps the elements in the order of the dense tensor, without padding.

    So blocks of channels do where everything within a channel has size 1.
    """
    t = value.type
    if not isinstance(t, TensorType) or t.static is None:
        return False
    if not t.layout:
        return True
    layout, shape = parse_layout(t.layout), t.static
    split = [a for a in range(len(shape)) if layout.block(a) > 1]
    if len(split) != 1 or len(layout.blocks) != 1 or list(layout.order) != sorted(layout.order):
        return False
    (axis,) = split
    return shape[axis] % layout.block(axis) == 0 and all(d == 1 for d in shape[axis + 1 :])


def same_memory(op: Op) -> bool:
    """Whether a reorder moves nothing: whole blocks of channels, of one pixel each."""
    old, new = op.operand(0).tensor, op.result.tensor
    shape = old.static
    if shape is None or len(shape) < 3 or any(d != 1 for d in shape[2:]):
        return False
    tags = [tag for tag in (old.layout, new.layout) if tag]
    blocked = [parse_layout(tag) for tag in tags]
    plain = all(b.order == tuple(range(len(shape))) and len(b.blocks) == 1 for b in blocked)
    return plain and all(b.blocks[0][0] == 1 and shape[1] % b.block(1) == 0 for b in blocked)


def is_constant(value: Value) -> bool:
    """Whether a value is known at compile time: a constant, or one in another layout."""
    op = value.op
    while op and isinstance(op.kind, Reorder):
        op = op.operand(0).op
    return op is not None and isinstance(op.kind, Const)


def stacks(op: Op) -> bool:
    """Whether an op concatenates its operands as they lie in memory, one block after another.

    So it is where all axes outside the one in question have size 1: then it costs nothing, if the
    operands can be made in place.
    """
    return turns(op) == 1


def turns(op: Op) -> int:
    """How often the operands of a concatenation follow one another in memory, as whole blocks.

    As often as the axes outside the one in question say: once an image, as a rule. 0 where they
    don't lie in it as they do by themselves, or the op is another.
    """
    kind, result = op.kind, op.results[0].type
    shape = result.static if isinstance(result, TensorType) else None
    if not isinstance(kind, Concat) or not isinstance(result, TensorType) or not shape:
        return 0
    if any(v is None or v.tensor.layout != result.layout for v in op.operands):
        return 0
    layout = parse_layout(result.layout) if result.layout else None
    order, axis = list(layout.order if layout else range(len(shape))), kind.axis % len(shape)
    block = layout.block(axis) if layout else 1
    if any((v.tensor.static or shape)[axis] % block for v in op.operands[:-1] if v):
        return 0
    return math.prod(physical_shape(shape, result.layout)[: order.index(axis)])


def _made_here(op: Op) -> bool:
    """Whether all operands are made by ops of the graph, not given."""
    return all(v and v.op and v.op.graph is op.graph and not is_constant(v) for v in op.operands)


def own_outputs(graph: Graph) -> None:
    """Give each output a kernel result of its own: copy inputs, constants, views and repeats."""
    last, seen = graph.terminator, set[Value]()
    for i, value in enumerate(last.operands):
        if value is None or not isinstance(value.type, TensorType) or value.type.static is None:
            continue
        maker = value.op
        if maker is None or is_constant(value) or is_view(maker) or value in seen:
            copy = Op(Identity(), [value], loc=maker.loc if maker else Loc(), hints=[value.hint])
            graph.insert(copy, before=last)
            last.set_operand(i, copy.result)
        seen.add(value)


def own_floats(graph: Graph) -> None:
    """Give each user its own `dequantize` or `cast`, which its kernel computes as it reads."""
    for op in [op for op in graph if isinstance(op.kind, Dequantize) or is_widening(op)]:
        for use in op.result.uses[1:]:
            copy = graph.insert(clone_op(op, {}), before=op)
            use.op.set_operand(use.index, copy.result)


def is_widening(op: Op) -> bool:
    """Whether an op makes float32 of bfloat16 or float16, or of weights that are bytes."""
    if not isinstance(op.kind, Cast) or op.kind.to is not DType.f32:
        return False
    x, dtype = op.operand(0), op.operand(0).tensor.dtype
    return dtype in (DType.bf16, DType.f16) or (dtype is DType.i8 and is_constant(x))


def _pulled(op: Op, catalog: Catalog) -> bool:
    """Whether an op is computed by its user's kernel as that reads.

    So is `dequantize` for an element-wise op, and what makes float32 of bfloat16 for most.
    """
    if not (isinstance(op.kind, Dequantize) or is_widening(op)) or op.result.use_count != 1:
        return False
    user = op.result.uses[0].op
    if is_widening(op) and user.graph is op.graph and not isinstance(user.kind, Elementwise):
        return catalog.reads_halves(user, op.result.uses[0].index) and bool(catalog.family(op))
    if user.graph is not op.graph or not isinstance(user.kind, Elementwise):
        return False
    same = len(user.results) == 1 and user.result.tensor.shape == op.result.tensor.shape
    return same and bool(catalog.family(user)) and bool(catalog.family(op))


def _groups(graph: Graph, catalog: Catalog) -> Iterable[tuple[list[Op], str]]:
    trees = {op: [*ops, op] for op, ops in _shuffled(graph, catalog)}
    shuffles = {op for tree in trees.values() for op in tree}
    trees.update(_trees(graph, catalog, shuffles))
    taken = {op for tree in trees.values() for op in tree}
    for op in graph:
        if (op in taken and op not in trees) or _skip(op) or _pulled(op, catalog):
            continue
        family = catalog.family(op)
        if family is None:
            continue
        ops, family = _chained(trees.get(op, [op]), family, taken, catalog)
        makers = dict.fromkeys(v.op for o in ops for v in o.operands if v and v.op)
        ops = [*(m for m in makers if m not in ops and _pulled(m, catalog)), *ops]
        taken.update(ops)
        yield ops, family


def _shuffled(graph: Graph, catalog: Catalog) -> Iterable[tuple[Op, tuple[Op, ...]]]:
    """Ops whose kernel can read through the channel shuffle before them, with its ops."""
    for op in graph:
        if not op.operands or op.operands[0] is None or not catalog.any_order(op):
            continue
        found = channel_shuffle(op.operand(0))
        if found and all(o.graph is graph and catalog.family(o) for o in (op, *found.ops)):
            yield op, found.ops


def _trees(graph: Graph, catalog: Catalog, taken: set[Op]) -> Iterable[tuple[Op, list[Op]]]:
    """Movements with the movements that feed only them, by the last; in program order."""
    order = {op: i for i, op in enumerate(graph)}
    taken = set(taken)
    for op in reversed(list(graph)):
        if op in taken or not isinstance(op.kind, MOVES) or _skip(op) or not catalog.family(op):
            continue
        if stacks(op) and _made_here(op):
            continue
        tree = [op, *_feeders(op, catalog)]
        if 1 < len(tree) <= MOST_MOVES:
            taken.update(tree)
            yield op, sorted(tree, key=order.__getitem__)


def _feeders(op: Op, catalog: Catalog) -> list[Op]:
    """The movements whose only user is `op`, or that feed such; a view, only if that feeds one."""
    found: list[Op] = []
    for maker in (v.op for v in op.operands if v and v.op and v.use_count == 1):
        if not isinstance(maker.kind, MOVES) or maker.graph is not op.graph:
            continue
        if len(maker.results) != 1 or is_constant(maker.result) or not catalog.family(maker):
            continue
        before = _feeders(maker, catalog)
        if before or not is_view(maker):
            found += [maker, *before]
    return found


def _skip(op: Op) -> bool:
    if isinstance(op.kind, Const | Return | Fused) or is_view(op):
        return True
    return isinstance(op.kind, Reorder) and is_constant(op.result)


def _follower(op: Op, taken: set[Op], catalog: Catalog) -> Op | None:
    """The op that may join the kernel that ends in `op`."""
    if len(op.results) != 1 or op.result.use_count != 1 or catalog.alone(op):
        return None
    user = op.result.uses[0].op
    if user in taken or user.graph is not op.graph or len(user.results) != 1:
        return None
    if _pulled(user, catalog) and (
        not _follower(user, taken, catalog) or _leaves(user, taken, catalog)
    ):
        return None  # its user pulls it into another kernel: then memory keeps the shorter type
    same = user.result.type == op.result.type
    if not same and not _retypes(user, op):
        return None
    return user if catalog.joins(user) and catalog.family(user) is not None else None


def _leaves(op: Op, taken: set[Op], catalog: Catalog) -> bool:
    """Whether the user of a `dequantize` of bytes had better join another kernel.

    So it had where its other operand is made by a kernel to come, of longer elements: if that takes
    it in, what memory keeps between the two kernels are the bytes.
    """
    user = op.result.uses[0].op
    if not isinstance(op.kind, Dequantize) or op.operand(0).tensor.dtype.bits > 8:
        return False
    others = [v for v in user.operands if v and v is not op.result and not is_constant(v)]
    return len(others) == 1 and _ends(others[0], user.result, taken, catalog)


def _ends(value: Value, result: Value, taken: set[Op], catalog: Catalog) -> bool:
    """Whether a kernel to come makes a value of a result's shape, and stores no bytes before."""
    op = value.op
    while op and op not in taken and len(op.results) == 1 and op.result.use_count == 1:
        t, last = op.result.tensor, result.tensor
        if t.dtype.bits <= 8 or (t.shape, t.layout) != (last.shape, last.layout):
            return False
        if not catalog.joins(op):
            alone = isinstance(op.kind, MOVES) or catalog.alone(op)
            return catalog.family(op) is not None and not alone
        op = op.operand(0).op
    return False


def _followed(ops: list[Op], taken: set[Op], catalog: Catalog) -> list[Op]:
    """Ops with all that may join their kernel after them."""
    ops = list(ops)
    while follower := _follower(ops[-1], taken, catalog):
        ops.append(follower)
    return ops


def _chained(ops: list[Op], family: str, taken: set[Op], catalog: Catalog) -> tuple[list[Op], str]:
    """Ops with their epilogue, and the kernels after them that one computes together with them.

    Each of those reads as its first operand what nothing else reads. The longest chain is taken.
    """
    links = [_followed(ops, taken, catalog)]
    while len(links) < LONGEST:
        last = links[-1][-1]
        use = last.result.uses[0] if len(last.results) == 1 and last.result.use_count == 1 else None
        if not use or use.index or use.op in taken or use.op.graph is not last.graph:
            break
        if isinstance(use.op.kind, Return) or not catalog.family(use.op):
            break
        links.append(_followed([use.op], taken, catalog))
    while len(links) > 1:
        chain = [op for link in links for op in link]
        if joint := catalog.together(chain):
            return chain, joint
        links.pop()
    return links[0], family


def _retypes(user: Op, op: Op) -> bool:
    """A cast or comparison keeps shape and layout and changes the element type only."""
    a, b = user.result.type, op.result.type
    if not isinstance(a, TensorType) or not isinstance(b, TensorType):
        return False
    return (a.shape, a.layout) == (b.shape, b.layout)


def _loc(ops: list[Op]) -> Loc:
    loc = Loc()
    for op in ops:
        loc = loc | op.loc
    return loc


def _fuse(graph: Graph, ops: list[Op], family: str) -> None:
    """Move ops into the region of a new `fused` op that stands where the last of them stood."""
    region, mapped, operands = Graph(name="body"), dict[Value, Value](), list[Value]()
    inside = {r for op in ops for r in op.results}
    for value in dict.fromkeys(v for op in ops for v in op.operands if v and v not in inside):
        if _immediate(value):
            assert value.op
            region.insert(clone_op(value.op, mapped))
        else:
            operands.append(value)
            mapped[value] = region.add_arg(value.type, value.hint)
    for op in ops:
        region.insert(clone_op(op, mapped))
    results = ops[-1].results
    region.insert(Op(Return(), [mapped[r] for r in results]))
    fused = Op(
        Fused(family), operands, [r.type for r in results],
        loc=_loc(ops), regions=[region], hints=[r.hint for r in results],
    )  # fmt: skip
    graph.insert(fused, before=ops[-1])
    for old, new in zip(results, fused.results, strict=True):
        old.replace_all_uses_with(new)
    for op in reversed(ops):
        graph.erase(op)


def _immediate(value: Value) -> bool:
    """A constant of one element becomes an immediate of the kernel's code.

    Not so scales and zero points: layers that differ in them alone share a kernel.
    """
    if any(isinstance(use.op.kind, Scaled) and use.index for use in value.uses):
        return False
    return bool(value.op) and isinstance(value.op.kind, Const) and size(value.op.kind.data) == 1
