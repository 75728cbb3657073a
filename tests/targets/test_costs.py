"""What ops cost: modelled before anything was timed, measured afterwards, replayed on request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import graphopt
from graphopt.analysis.price import Costs, Price, graph_of, graph_with
from graphopt.analysis.work import Work
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Graph, Module
from graphopt.ir.parser import parse
from graphopt.ir.types import DType, TensorType
from graphopt.ops.nn import Conv
from graphopt.passes.factorize.forms import DepthwiseFirst, PointwiseFirst
from graphopt.passes.layers.forms import Form
from graphopt.passes.layers.replace import example
from graphopt.passes.layers.sites import Site, sites
from graphopt.passes.lowrank.forms import Tucker
from graphopt.pipeline import Context, Pass, PassResult
from graphopt.targets.base import Build
from graphopt.targets.costs import (
    Database,
    Model,
    ModelCosts,
    Row,
    TargetCosts,
    reference_model,
)
from graphopt.targets.program import Program
from graphopt.targets.roofline import Roofline, host_roofline
from graphopt.targets.x86 import X86

ROOF = Roofline("a CPU", 1, {"f32": 100.0}, ((1 << 14, 100.0), (1 << 28, 10.0)))
CONV = Conv(strides=(1, 1), pads=(2, 2, 2, 2), dilations=(1, 1), group=1)


def f32(*shape: int) -> TensorType:
    return TensorType(DType.f32, shape)


def conv(outputs: int) -> Graph:
    """A 5x5 convolution of 16 channels on 12x12 pixels."""
    return graph_with(CONV, [f32(1, 16, 12, 12), f32(outputs, 16, 5, 5), f32(outputs)], (1, 2))


@pytest.fixture
def costs(tmp_path: Path) -> TargetCosts:
    """The prices of this computer's x86 with an empty database."""
    return TargetCosts(X86(), 1, database=Database(1, tmp_path / "costs.sqlite"))


def test_a_price_is_modelled_until_the_kernel_is_measured(
    costs: TargetCosts, tmp_path: Path
) -> None:
    guess = costs.price(conv(32))
    assert guess.measured == 0
    assert 1e-7 < guess.seconds < 1e-2
    costs.measure([conv(32)], Build(jobs=1))
    found = costs.price(conv(32))
    assert found.measured == found.seconds
    (row,) = (r for r in costs.rows.values() if r.family == "conv")
    assert found.seconds == pytest.approx(1e-6 * row.us)
    assert row.flops == 2 * 32 * 144 * 16 * 25 + 32 * 144
    again = TargetCosts(X86(), 1, database=Database(1, tmp_path / "costs.sqlite"))
    assert again.price(conv(32)) == found


def test_what_would_fewer_channels_cost(costs: TargetCosts) -> None:
    prices = [costs.price(conv(n)).seconds for n in (16, 32, 64)]
    assert prices == sorted(prices)
    assert prices[0] < 0.5 * prices[2]


def test_layout_changes_at_the_ends_are_free(costs: TargetCosts) -> None:
    costs.price(conv(32))
    assert len(costs.used) == 1
    program = X86().lower(Module(conv(32)))
    assert len(program.steps) > 1


def test_a_price_can_be_replayed(costs: TargetCosts, tmp_path: Path) -> None:
    first = costs.price(conv(32))
    fixed = {key: 2 * seconds for key, seconds in costs.used.items()}
    other = Database(1, tmp_path / "other.sqlite")
    again = TargetCosts(X86(), 1, database=other, fixed=fixed)
    assert again.price(conv(32)).seconds == pytest.approx(2 * first.seconds)


def test_ops_of_a_graph_and_what_is_not_compiled_have_prices(costs: TargetCosts) -> None:
    module = parse("""module "m" opset "" 17
graph @main(%x: f32[1,16,12,12]) {
  %w = const rand 1 : f32[16,16,3,3]
  %a = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}
  %b = relu(%a)
  %c = opaque(%b) {op_type=Custom,version=1,domain="mine"} : f32[1,16,12,12]
  return(%c) {names=[y]}
}
""")
    _, one, two, three, _ = module.main
    both = costs.price(graph_of([one, two]))
    assert both.seconds == pytest.approx(costs.price(graph_of([one])).seconds, rel=0.2)
    assert isinstance(three.kind, Opaque)
    assert costs.price(graph_of([three])).seconds > 0
    assert [op.kind.name for op in module.main] == ["const", "conv", "relu", "opaque", "return"]


@dataclass(frozen=True)
class Ask(Pass, name="test-ask"):
    """Asks what each convolution costs."""

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Keep the answers."""
        assert ctx.costs is not None
        ASKED.extend(
            ctx.costs.price(graph_of([op])) for op in module.main if op.kind.name == "conv"
        )
        return PassResult(False)


ASKED: list[Price] = []


def test_passes_ask_through_the_context() -> None:
    model = Path(__file__).parents[2] / "models" / "fmnist_resnet8.onnx"
    ASKED.clear()
    result = graphopt.optimize(model, target="x86", passes="default,test-ask", threads=1)
    assert len(ASKED) >= 7
    assert result.manifest is not None
    recorded = result.manifest.extra["costs"]
    assert sum(recorded.values()) <= sum(p.seconds for p in ASKED) * 1.001
    assert all(p.seconds > 0 for p in ASKED)


def test_a_profile_fills_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = Path(__file__).parents[2] / "models" / "digits_dscnn.onnx"
    place = graphopt.optimize(model, target="x86", check=False).save(tmp_path / "b")
    assert Database(2).rows() == {}
    found = graphopt.profile(place, threads=2, runs=3)
    rows = Database(2).rows()
    assert {r.us for r in rows.values()} <= {n.min_us for n in found.layers}
    assert {r.family for r in rows.values()} == {n.family for n in found.layers}
    assert Database(1).rows() == {}
    costs: Costs | None = X86().costs(2)
    assert costs is not None


def row(key: str, us: float, flops: int = 10**6) -> Row:
    return Row(key, "conv", "conv relu", "f32", flops, 10**4, 10**3, us)


def test_the_least_of_several_times_is_kept(tmp_path: Path) -> None:
    database = Database(4, tmp_path / "d" / "costs.sqlite")
    for us in (20.0, 30.0, 10.0, 40.0):
        database.add([row("k", us), row("other", 2 * us)])
    assert {k: r.us for k, r in database.rows().items()} == {"k": 10.0, "other": 20.0}


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + b"\xff" * 500])
def test_a_damaged_database_is_begun_anew(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "costs.sqlite"
    path.write_bytes(content)
    database = Database(1, path)
    assert database.rows() == {}
    database.add([row("k", 5.0)])
    assert database.rows()["k"] == row("k", 5.0)


def test_a_cache_that_cannot_be_written_is_no_error() -> None:
    database = Database(1, Path("/proc/version/costs.sqlite"))
    database.add([row("k", 5.0)])
    assert database.rows() == {}


def test_the_model_follows_the_nearest_measured_kernel() -> None:
    """10^6 operations take 10 us at best on ROOF; the ones measured near take 25, the others more."""
    work, ops = Work(10**6, 10**4, 10**3), ("conv", "relu")
    guess = Model.of(ROOF, []).seconds("conv", ops, work)
    assert 10e-6 < guess < 20e-6
    near = [row(f"n{i}", 25.0, 10**6 + i) for i in range(4)]
    far = [row(f"f{i}", 10000.0, 10**8 + i) for i in range(9)]
    model = Model.of(ROOF, near + far)
    assert model.seconds("conv", ops, work) == pytest.approx(25e-6, rel=0.05)
    assert model.seconds("conv", ops, Work(10**8, 10**4, 10**3)) == pytest.approx(10e-3, rel=0.05)
    assert model.seconds("conv", ("conv",), work) == pytest.approx(25e-6, rel=0.2)
    assert model.seconds("pool", ("max_pool",), work) > 10e-6


def probes(monkeypatch: pytest.MonkeyPatch, folder: Path, *peaks: float) -> list[float]:
    """Let measurements find these peaks, one after another; gives those that were taken."""
    taken: list[float] = []

    def measured(probe: Path, host: object, threads: int, most: int) -> Roofline:
        taken.append(peaks[len(taken)])
        return replace(ROOF, threads=threads, peaks={"f32": taken[-1]})

    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr("graphopt.targets.roofline.measure._measured", measured)
    return taken


def test_a_roofline_is_measured_until_it_is_found_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken = probes(monkeypatch, tmp_path, 60.0, 100.0, 99.0, 1.0)
    roof = host_roofline(1)
    assert (roof.steady, roof.peaks["f32"], len(taken)) == (True, 100.0, 3)
    assert host_roofline(1) == roof
    assert len(taken) == 3


def test_two_threads_that_do_less_than_one_are_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken = probes(monkeypatch, tmp_path, 100.0, 100.0, 80.0, 80.0, 199.0, 198.0)
    assert host_roofline(1).peaks["f32"] == 100.0
    roof = host_roofline(2)
    assert (roof.steady, roof.peaks["f32"], len(taken)) == (True, 199.0, 6)


def test_a_roofline_that_never_settles_says_so_and_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken = probes(monkeypatch, tmp_path, 10.0, 20.0, 30.0, 40.0, 41.0)
    roof = host_roofline(1)
    assert (roof.steady, roof.peaks["f32"], len(taken)) == (False, 40.0, 4)
    again = host_roofline(1)
    assert (again.steady, again.peaks["f32"], len(taken)) == (True, 41.0, 5)


def test_the_roofline_bounds_by_the_slower_of_two() -> None:
    assert ROOF.bound(Work(10**9, 10, 0)).seconds == pytest.approx(1e-2)
    assert ROOF.bound(Work(10**9, 10, 0)).by == "compute"
    near, far = ROOF.bound(Work(0, 1 << 14, 0)), ROOF.bound(Work(0, 0, 1 << 14), footprint=1 << 28)
    assert (near.by, far.by) == ("memory", "memory")
    assert far.seconds == pytest.approx(10 * near.seconds)
    assert 10e9 < ROOF.bytes_a_second(1 << 21) < 100e9
    assert ROOF.bytes_a_second(1 << 40) == 10e9
    assert ROOF.bytes_a_second(1) == 100e9
    assert Roofline.from_json(ROOF.to_json()) == ROOF


@pytest.fixture
def site() -> Site:
    """A 3x3 convolution of 64 channels on 28x28 pixels."""
    module = parse("""graph @main(%x: f32[1,64,28,28]) {
      %w = const rand 1 : f32[64,64,3,3]
      %y = conv(%x, %w) {strides=[1,1],pads=[1,1,1,1],dilations=[1,1]} @ "it"
      return(%y) {names=[y]}
    }""")
    return sites(module.main)[0]


@pytest.mark.parametrize("form", [DepthwiseFirst, PointwiseFirst])
def test_each_term_of_a_form_has_a_price(form: type[Form], site: Site) -> None:
    target = X86("avx512bf16")
    costs = ModelCosts(target, lambda: reference_model(target.machine()))
    one, two, six = (costs.price(example(form(site), (n,))).seconds for n in (1, 2, 6))
    assert 1.6 * one < two < 2.4 * one
    assert 2.7 * two < six < 3.3 * two


def test_forms_are_priced_as_they_would_be_computed(site: Site) -> None:
    graph = example(Tucker(site), (32, 32))
    families = [k.family for k in X86("avx512bf16").lower(Module(graph)).kernels]
    assert "winograd" in families


def weighted(*weights: str) -> Graph:
    """The sum of 3x3 convolutions of 64 channels, or of products, by weights of this text."""
    shape = "f32[64,64,3,3]" if len(weights) == 1 else "f32[16,32]"
    first = f"""graph @main(%x: f32[1,64,28,28]) {{
      %w = const {weights[0]} : {shape}
      %y = conv(%x, %w) {{strides=[1,1],pads=[1,1,1,1],dilations=[1,1]}}
      return(%y) {{names=[y]}}
    }}"""
    if len(weights) == 1:
        return parse(first).main
    return parse(f"""graph @main(%x: f32[4096,16]) {{
      %v = const {weights[0]} : {shape}
      %w = const {weights[1]} : {shape}
      %a = matmul(%x, %v)
      %b = matmul(%x, %w)
      %y = add(%a, %b)
      return(%y) {{names=[y]}}
    }}""").main


@pytest.mark.parametrize(
    ("first", "second"),
    [(("rand 1",), ("splat 0.0",)), (("rand 1", "rand 1"), ("rand 1", "rand 2"))],
    ids=["zeros are stored in few bytes", "equal ops are merged"],
)
def test_numbers_that_decide_what_is_computed_have_prices_of_their_own(
    first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    def prices() -> ModelCosts:
        target = X86("avx512bf16")
        return ModelCosts(target, lambda: reference_model(target.machine()))

    fresh = [prices().price(weighted(*w)).seconds for w in (first, second)]
    assert fresh[0] != pytest.approx(fresh[1], rel=0.1)
    costs = prices()
    assert [costs.price(weighted(*w)).seconds for w in (first, second)] == fresh


def test_layers_of_one_shape_are_lowered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    target = X86("avx512bf16")
    costs = ModelCosts(target, lambda: reference_model(target.machine()))
    lowered, lower = list[Module](), X86.lower

    def counted(of: X86, module: Module) -> Program:
        lowered.append(module)
        return lower(of, module)

    monkeypatch.setattr(X86, "lower", counted)
    prices = [costs.price(weighted(f"rand {i}")) for i in range(3)]
    assert prices == prices[:1] * 3
    assert len(lowered) == 1
