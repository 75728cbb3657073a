# pyright: basic
# TVM ships no types.
"""Loops of sums written out, all whose numbers are of a few lines: by loads of four of a line.

    for k: acc[i] += broadcast(x[i + k]) * w[k]
 -> q[j] = x[4j .. 4j + 3]; acc[0] += broadcast(q[0][0]) * w[0]; acc[1] += broadcast(q[0][1]) * w[0]

What several columns and taps see of a line is loaded once, not once each. Of words (four bytes, two
of a block of channels) the loop around the innermost one is written out, too: the taps of a row, or
two blocks of channels, which are two lines.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from graphopt.targets.tvm import bases
from graphopt.targets.tvm.steps import Copy, OtherError, inlined, scalars, stores_of

MOST_TURNS = 7  # of a loop that is written out
MOST_PRODUCTS = 256  # that are written out
LINE = 4  # numbers that are loaded together
DOT = "graphopt_dot"
At = list[dict[Any, Any]]  # the values of loop variables, of each step


def by_line(loop: Any) -> Any:
    """A short innermost loop written out, all whose floats are of one line: by quads of that.

    So is a row of a window over a dense image: of 17 neighbours that eight columns of stride 2
    and three taps see, five loads, not one a number.
    """
    if int(loop.kind) != 0 or not 1 < _turns(loop) <= MOST_TURNS:
        return None
    made = _written(loop.body, _each(loop, _turns(loop)), "float32", 1)
    return made and bases.sequence([*made[0], made[1]])


def by_words(loop: Any) -> Any:
    """A loop of products of words written out, or two of its turns; None where that can't be."""
    if (whole := written_out(loop)) is not None:
        return whole
    inner, turns = loop.body, _turns(loop)
    if int(loop.kind) != 0 or not _serial(inner) or not _dots(inner.body):
        return None
    for part in (2, 1):
        if turns % part:
            continue
        turn = loop.loop_var * part if turns > part else tirx.const(0, "int32")
        at = [{loop.loop_var: turn + i, **step}
              for i in range(part) for step in _each(inner, _turns(inner))]  # fmt: skip
        if (made := _written(inner.body, at, "int32", part)) is None:
            continue
        outside, body = made
        if turns > part:
            extent = bases.hidden(tirx.const(turns // part, "int32"))
            body = tirx.For(loop.loop_var, loop.min, extent, loop.kind, body, loop.thread_binding,
                            loop.annotations)  # fmt: skip
        return bases.sequence([*outside, body])
    return None


def written_out(loop: Any) -> Any:
    """All turns of a short loop of products of words, and of one in it, where they see one line."""
    if not _serial(loop) or not 1 < _turns(loop) <= MOST_TURNS:
        return None
    at, body = _each(loop, _turns(loop)), loop.body
    if _serial(body):
        at = [{**outer, **step} for outer in at for step in _each(body, _turns(body))]
        body = body.body
    made = _written(body, at, "int32", 1) if at and _dots(body) else None
    return made and bases.sequence([*made[0], made[1]])


def _serial(loop: Any) -> bool:
    return bases.is_kind(loop, "For") and int(loop.kind) == 0


def _turns(loop: Any) -> int:
    """The turns of a loop from 0 on; 0 where they aren't known."""
    known = bases.is_kind(loop.extent, "IntImm") and int(loop.min) == 0
    return int(loop.extent) if known else 0


def _each(loop: Any, turns: int) -> At:
    return [{loop.loop_var: tirx.const(i, "int32")} for i in range(turns)]


def _dots(body: Any) -> bool:
    """Whether a body has nothing but products of words."""
    try:
        stores, _ = stores_of(body)
    except OtherError:
        return False
    called = (getattr(getattr(s.value, "op", None), "name", "") for s in stores)
    return all(name.endswith(DOT) for name in called)


def _written(body: Any, at: At, dtype: str, most: int) -> tuple[list[Any], Any] | None:
    """The stores of all steps, by loads of at most so many lines; what goes before a loop of it."""
    try:
        stores, bound = stores_of(body)
        if len(stores) * len(at) > MOST_PRODUCTS:
            return None
        copies = [Copy(inlined(bound, one), {}) for one in at]
        loads = [copy(load) for s in stores for load in scalars(s.value) for copy in copies]
        found = None if bases.stored(loads, stores) else _lines(loads, dtype, most)
        if found is None:
            return None
        outside, binds, quads = found
        for copy in copies:
            copy.quads, copy.simplify = quads, dtype == "int32"
        sums = [tirx.BufferStore(s.buffer, copy(s.value), [copy(i) for i in s.indices])
                for copy in copies for s in stores]  # fmt: skip
    except OtherError:
        return None
    return outside, bases.sequence([*binds, *sums])


def _lines(
    loads: list[Any], dtype: str, most: int
) -> tuple[list[Any], list[Any], dict[Any, tuple[Any, int]]] | None:
    """Quads that hold all of some numbers and nothing before or after their lines.

    Returns:
        How far lines are from the first, where LLVM mustn't know it; the loads; where each number
        is in them. None: there are more lines, or too few numbers in one.
    """
    simplify: Any = tvm.sym.Analyzer().simplify
    if not loads or any(str(one.source.dtype) != dtype for one in loads):
        return None
    source, base = loads[0].source, simplify(loads[0].indices[0])
    apart = [simplify(one.indices[0] - base) for one in loads]
    alike = all(one.source.same_as(source) for one in loads)
    if not alike or not all(bases.is_kind(d, "IntImm") for d in apart):
        return None
    places = {int(d): one for d, one in zip(apart, loads, strict=True)}
    outside, binds, quads = list[Any](), list[Any](), dict[Any, tuple[Any, int]]()
    lines = _groups(sorted(places)) if most > 1 else [sorted(places)]
    for line in lines:
        low, high = line[0], line[-1]
        starts = [min(at, high - LINE + 1) for at in range(low, high + 1, LINE)]
        if len(lines) > most or high - low < LINE - 1 or 2 * len(starts) > len(line):
            return None
        away = None if _near(low, source) else tirx.Var("far", "int64")
        if away is not None:
            outside.append(bases.distance(away, low))
        for start in starts:
            at = tirx.Ramp(base + start, 1, LINE)
            if away is not None:
                at = bases.ramp(base, away + tirx.const(start - low, "int64"), LINE)
            wide = tirx.BufferLoad(source, [at])
            var = tirx.Var("quad", wide.ty)
            binds.append(tirx.Bind(var, wide))
            quads |= {bases.key(places[i]): (var, i - start)
                      for i in line if start <= i < start + LINE}  # fmt: skip
    return outside, binds, quads


def _near(low: int, source: Any) -> bool:
    """Whether loads in pairs reach a line from the first one's base."""
    size = tvm.DataType(source.dtype).bits // 8
    return low <= 0 or (low % LINE == 0 and low * size <= bases.PAIRS_REACH)


def _groups(places: list[int]) -> list[list[int]]:
    """Places in order, apart where nothing is for a quad's length."""
    found: list[list[int]] = []
    for at in places:
        if found and at - found[-1][-1] <= LINE:
            found[-1].append(at)
        else:
            found.append([at])
    return found
