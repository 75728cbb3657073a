"""Passes and pipelines: a pass is a frozen dataclass, a pipeline is text.

`"fold,fuse,prune{ratio=0.3}"` parses to a tuple of passes; `str` of each gives the text back.
Names of pipelines (`graphopt.passes.PIPELINES`) stand for their passes: `"default,int8"`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, Literal, Protocol

from graphopt.analysis.moments import Moments
from graphopt.analysis.price import Costs
from graphopt.blas import one_thread
from graphopt.choices import Settled
from graphopt.errors import GraphoptError, InputError
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Graph, Loc, Module, Op, OpKind, Value
from graphopt.ir.types import Array
from graphopt.loss import Loss
from graphopt.rewrite.driver import Permission, Remark
from graphopt.scanner import Scanner
from graphopt.spec import Spec, misfit, parse_spec

Effect = Literal["exact", "reassociating", "lossy"]
NO_NAMES: Mapping[str, str] = MappingProxyType({})


def permit_all(rule: str, loc: Loc) -> bool:
    """Allow every rewrite."""
    return True


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


class Catalog(Protocol):
    """What a target can compile, as grouping and layout need to know it."""

    @property
    def signed(self) -> bool:
        """Whether kernels multiply signed bytes by signed ones, not unsigned by signed."""
        ...

    def family(self, op: Op) -> str | None:
        """The kernel family that computes the op; None where there is none."""
        ...

    def alone(self, op: Op) -> bool:
        """Whether the op's kernel takes no epilogue."""
        ...

    def joins(self, op: Op) -> bool:
        """Whether the op (element-wise) may be the epilogue of a kernel."""
        ...

    def together(self, ops: Sequence[Op]) -> str | None:
        """The family of a kernel that computes several kernels' ops, sooner than they would.

        None where there is none.
        """
        ...

    def any_order(self, op: Op) -> bool:
        """Whether the op's kernel reads the channels of its operand in any order for nothing."""
        ...

    def reads_halves(self, op: Op, index: int) -> bool:
        """Whether the op's kernel can read an operand as bfloat16 and make float32 of it."""
        ...

    def tiled_weights(self, op: Op) -> str:
        """The layout of weights that the op's kernel wants for a matrix unit; empty: none."""
        ...

    def keeps_wide(self, op: Op, index: int) -> str:
        """Why a constant operand is better float32 though its numbers are bfloat16; else empty."""
        ...


class Activations(Protocol):
    """What values of a module are on sample inputs, as calibration needs to know it.

    `data` says what the samples are: `given`, or how they were made; `runs` how many runs of the
    model they are enough for; `mask` which input tells what rows are padding (see `padding`);
    `made_up` whether nobody gave them.
    """

    data: str
    made_up: bool
    runs: int
    mask: str | None

    def expected(self) -> Mapping[str, Moments]:
        """What is known without samples of the original's values, by name."""
        ...

    def watch(
        self, module: Module, values: Sequence[Value], runs: int | None = None, own: bool = False
    ) -> Iterator[tuple[int, Array]]:
        """Pairs of an index into `values` and its array, run after run (the first `runs`).

        `own`: those of this module are compared with another's; else values that the original has
        too may come from it, where samples are made up.
        One run's arrays are in memory at a time, or fewer (see `graphopt.activations`).
        """
        ...

    def take(self, runs: int | None = None) -> Iterator[dict[str, Array]]:
        """What the first `runs` of the model take (None: all), by the names of its inputs."""
        ...


class Judge(Protocol):
    """Measures how far a module's answers are from the original's."""

    def losses(self, module: Module) -> tuple[Loss, ...]:
        """By output, on samples that passes haven't looked at where there are enough."""
        ...


Evaluator = Callable[[OpKind, tuple[Array | None, ...], tuple[Graph, ...]], tuple[Array, ...]]


@dataclass
class Context:
    """What a pass may ask of the world; never global state.

    `evaluate` computes an op that has no numpy meaning of its own (opaque ones): kind, operand
    arrays, regions -> result arrays; None: such ops aren't folded. `fold_bytes` is the largest
    result that folding may make. `catalog` and `lanes` (the float32 vector width) describe the
    target; None and 0 when there is none. `costs` tells what ops take on it (see
    `graphopt.analysis.price`); None where nobody can. `samples` runs a module and shows its values;
    None where nobody can. `judge` measures losses, `max_drop` limits them (in points; see
    `graphopt.loss`); `lenient`: a pass with a goal needn't keep to that where a later one repairs;
    `apart`: other samples than those that choose tell the result.
    `progress` is told what a long pass does, how many parts are done, of how many.

    The rest is noted while passes run. `before` is the module as it was before the first lossy
    pass: what that and later ones are to stay close to; `floats` as it was before `quantize`, what
    other passes had done being done; `mended` whether a later pass repairs what the one that runs
    does; `channels` tells of values that lost channels which of the original's they still have, by
    name.
    """

    permit: Permission = permit_all
    evaluate: Evaluator | None = None
    fold_bytes: int = 1 << 20
    catalog: Catalog | None = None
    lanes: int = 0
    costs: Costs | None = None
    samples: Activations | None = None
    judge: Judge | None = None
    max_drop: float | None = None
    lenient: bool = False
    apart: bool = True
    progress: Callable[[str, int, int], None] = silent
    before: Module | None = None
    floats: Module | None = None
    mended: bool = False
    channels: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    @property
    def unquantized(self) -> Module | None:
        """What quantized layers are held against, each beside the one that it was."""
        return self.floats or self.before

    def anew(self, judge: Judge, lenient: bool) -> Context:
        """For a run of its own: nothing is noted yet."""
        return replace(self, judge=judge, lenient=lenient, apart=lenient, before=None,
                       floats=None, mended=False, channels={})  # fmt: skip


@dataclass(frozen=True)
class PassResult:
    """Whether the module changed, the remarks to show, what was chosen, notes for the screen."""

    changed: bool
    remarks: tuple[Remark, ...] = ()
    settled: Settled | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ahead:
    """What a pass of a pipeline can be checked against before any of them runs.

    `module` is what the first one gets, `ctx` what all do, `earlier` are those that run before it.
    """

    module: Module
    ctx: Context
    earlier: tuple[Pass, ...] = ()


class Pass(Spec):
    """A transformation of a Module; subclass as a frozen dataclass with `name="..."`.

    `effect` is what it does to the numbers: nothing (`exact`), float rounding only
    (`reassociating`), or an approximation (`lossy`). `repairs`: it brings the outputs nearer to
    the original's, after other passes.
    """

    effect: ClassVar[Effect] = "exact"
    repairs: ClassVar[bool] = False

    def check(self, ahead: Ahead) -> None:
        """Raise what running would, as far as that can be known before any pass has run.

        Raises:
            InputError: an option out of its range, a layer that isn't there, no data.
            UnsupportedError: something that isn't installed.
        """

    @abstractmethod
    def run(self, module: Module, ctx: Context) -> PassResult:
        """Transform the module in place."""


class Hook:
    """Something that watches a pipeline; subclass and override what is wanted."""

    def start(self, module: Module) -> None:
        """Called before the first pass; again, where passes run again (`graphopt.attempts`)."""

    def before(self, number: int, p: Pass, module: Module) -> None:
        """Called before pass `number` (from 1) runs."""

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Called after it ran."""

    def failed(self, number: int, p: Pass, module: Module, error: Exception) -> None:
        """Called when it raised."""


def parse_pipeline(
    text: str, named: Mapping[str, str] = NO_NAMES, source: str = "--passes"
) -> tuple[Pass, ...]:
    """Read pipeline text into passes.

    Args:
        text: `name{option=value,...},name,...`.
        named: the texts that names of pipelines stand for, which name none themselves.
        source: what messages call the text.

    Raises:
        ParseError: with the column and a caret.
    """
    scan = Scanner(text, source)
    found: list[Pass] = []
    while scan.kind != "end":
        if scan.token in named:
            found.extend(_named(scan, named))
        else:
            found.append(parse_spec(Pass, scan, what="pass", also=named))
        if not scan.has(",") and scan.kind != "end":
            scan.fail(f"expected ',' between passes, found {scan.token!r}")
    return tuple(found)


def _named(scan: Scanner, named: Mapping[str, str]) -> tuple[Pass, ...]:
    """Step over the name of a pipeline; give its passes."""
    name = scan.advance()
    if scan.token == "{":
        scan.fail(f"{name!r} is a pipeline and takes no options; write out its passes, "
                  f"{named[name]!r}, to give them some")  # fmt: skip
    return parse_pipeline(named[name], source=name)


@dataclass
class Record:
    """What running one pass gave."""

    number: int
    text: str
    effect: Effect
    changed: bool
    remarks: tuple[Remark, ...] = field(default=())
    settled: Settled | None = None
    notes: tuple[str, ...] = ()


def record(number: int, p: Pass, result: PassResult) -> Record:
    """What pass `number` gave."""
    return Record(number, str(p), p.effect, result.changed, result.remarks, result.settled,
                  result.notes)  # fmt: skip


def check_pipeline(passes: Sequence[Pass], module: Module, ctx: Context) -> None:
    """Find what is wrong with passes before the first of them runs.

    Raises:
        GraphoptError: one can't do what is asked; the message names it.
    """
    for i, p in enumerate(passes):
        try:
            if why := misfit(p):
                raise InputError(why)
            p.check(Ahead(module, ctx, tuple(passes[:i])))
        except GraphoptError as error:
            raise type(error)(f"pass {i + 1} ({p}): {error}") from error


def run_pipeline(
    passes: Iterable[Pass], module: Module, ctx: Context, hooks: Iterable[Hook] = ()
) -> list[Record]:
    """Run passes in order on a module, in place, once all of them are checked.

    Raises:
        GraphoptError: a pass can't run (nothing has been changed then), or it or a hook failed; the
            message names the pass.
    """
    passes, hooks, records = tuple(passes), tuple(hooks), list[Record]()
    check_pipeline(passes, module, ctx)
    for h in hooks:
        h.start(module)
    for number, p in enumerate(passes, 1):
        try:
            for h in hooks:
                h.before(number, p, module)
            if p.effect == "lossy" and ctx.before is None:
                ctx.before = clone_module(module)
            ctx.mended = any(later.repairs for later in passes[number:])
            with one_thread() if p.effect == "lossy" else nullcontext():
                result = p.run(module, ctx)
            for h in reversed(hooks):
                h.after(number, p, module, result)
        except Exception as error:
            for h in hooks:
                h.failed(number, p, module, error)
            if isinstance(error, GraphoptError):
                raise type(error)(f"pass {number} ({p}): {error}") from error
            raise
        records.append(record(number, p, result))
    return records
