"""Weights in fewer bytes: the streams, the decoder in C, and libraries that hold them."""

from __future__ import annotations

import io
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import graphopt
from graphopt.analysis.entropy import BLOCK, stored_bytes
from graphopt.errors import GraphoptError
from graphopt.ir.types import Array, DType
from graphopt.onnx import to_proto
from graphopt.runtime import Session
from graphopt.runtime.native import Context, Library, addresses
from graphopt.runtime.tensors import aligned
from graphopt.targets.base import Build
from graphopt.targets.driver import generate as driver
from graphopt.targets.driver import toolchain
from graphopt.targets.program import Buffer, Program, Weight, WeightData
from graphopt.targets.stored.blob import Storage, Stored, checksum, store
from graphopt.targets.stored.rans import PARTS, frequencies
from graphopt.targets.stored.streams import coded, plan

WIDTHS = (1, 2, 4, 8)
BITS: dict[int, DType] = {1: DType.u8, 2: DType.u16, 4: DType.f32, 8: DType.f64}


# ---- Streams, and a library that does nothing but give its constants back. ----


def constants(arrays: list[Array]) -> Program:
    """A program whose outputs are constants."""
    weights, buffers, at = list[WeightData](), list[Buffer](), 0
    for i, a in enumerate(arrays):
        weights.append(WeightData(at, a.nbytes, lambda a=a: a))
        buffers.append(Buffer(f"w{i}", BITS[a.itemsize], a.shape, Weight(at)))
        at += -(-a.nbytes // 64) * 64
    outputs = tuple(range(len(arrays)))
    return Program("constants", tuple(buffers), (), outputs, (), (), tuple(weights), at)


class Linked:
    """A library of constants, and how they are stored."""

    def __init__(self, arrays: list[Array], folder: Path, storage: Storage = "coded") -> None:
        self.arrays, program = arrays, constants(arrays)
        blob, self.path = folder / "weights.bin", folder / "libmodel.so"
        with blob.open("wb") as file:
            self.stored = store(program.weights, file, program.weight_bytes, storage)
        sources = driver.generate(program, stored=self.stored)
        toolchain.link([], sources, blob, self.path)

    def values(self, path: Path | None = None) -> list[Array]:
        """What a context of the library gives.

        Raises:
            GraphoptError: the library says so.
        """
        library = Library(path or self.path, "go")
        context = Context(library, 1)
        try:
            return self.run(context)
        finally:
            context.close()
            library.close()

    def run(self, context: Context) -> list[Array]:
        found = [aligned(a.shape, a.dtype) for a in self.arrays]
        context.run(addresses([]), addresses(found), 0, 0)
        return found


def same(got: list[Array], want: list[Array]) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/targets/damage.c with the decoder, under sanitizers where the compiler has them."""
    folder = tmp_path_factory.mktemp("damage")
    text = driver.decoder_text({"decode_indices", "decode_sparse"})
    (folder / "decode.c").write_text(text)
    (folder / "damage.c").write_text((Path(__file__).parent / "damage.c").read_text())
    args = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "damage.c", "-o", "damage"]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    try:
        toolchain.run(toolchain.find(), [*checks, *args], folder)
    except GraphoptError:
        toolchain.run(toolchain.find(), args, folder)
    return folder / "damage"


def examples() -> Iterator[tuple[str, Array]]:
    """Arrays of each width, with few values or many zeros, of lengths around a block's."""
    rng = np.random.default_rng(0)
    for width in WIDTHS:
        kind = np.dtype(f"u{width}")
        most = 2 ** (8 * width) - 1
        for n in (1, 3, BLOCK - 1, BLOCK, BLOCK + 5, 8 * BLOCK + 9):
            values = rng.integers(0, most, 20, dtype=np.uint64).astype(kind)
            yield f"few{width}-{n}", rng.choice(values, n)
            many = rng.integers(1, most, n, dtype=np.uint64, endpoint=True).astype(kind)
            yield f"sparse{width}-{n}", many * (rng.random(n) < 0.1)
        yield f"one{width}", np.full(70, most, kind)
        yield f"zeros{width}", np.zeros(3 * BLOCK, kind)


def test_every_stream_gives_its_constant_back(tmp_path: Path) -> None:
    arrays = [a for _, a in examples()]
    linked = Linked(arrays, tmp_path)
    same(linked.values(), arrays)
    assert {(c.coder, c.width) for c in linked.stored.coded} >= {
        (coder, width) for coder in ("indices", "sparse") for width in WIDTHS if width > 1
    }
    total = sum(a.nbytes for a in arrays)
    assert linked.stored.file_bytes < 0.2 * total  # 10 % of the sparse numbers are there
    assert linked.path.stat().st_size < 0.2 * total + 50_000


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_constants_of_any_values(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    def array(width: int) -> Any:
        kind = np.dtype(f"u{width}")
        few = st.sampled_from([0, 1, 2 ** (8 * width) - 1, 7])
        dense = st.integers(0, 2 ** (8 * width) - 1)
        return st.one_of(few, dense).flatmap(
            lambda fill: hnp.arrays(kind, st.integers(1, 3000), elements=st.one_of(few, dense),
                                    fill=st.just(fill)))  # fmt: skip

    arrays = data.draw(st.lists(st.sampled_from(WIDTHS).flatmap(array), min_size=1, max_size=24))
    storage = data.draw(st.sampled_from(["auto", "coded", "plain"]))
    linked = Linked(arrays, tmp_path_factory.mktemp("any"), storage)
    same(linked.values(), arrays)
    assert linked.stored.file_bytes <= sum(-(-a.nbytes // 64) * 64 for a in arrays)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=256))
def test_frequencies_add_up(counts: list[int]) -> None:
    freq = frequencies(np.array(counts))
    assert freq.sum() == PARTS
    assert freq.min() >= 1
    order = np.argsort(counts, kind="stable")
    assert (np.diff(freq[order]) >= -1).all()  # a symbol that is more frequent hasn't less


@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_sizes_are_close_to_the_entropy(bits: int) -> None:
    rng = np.random.default_rng(bits)
    values = rng.normal(size=1 << bits).astype(np.float32)
    share = rng.dirichlet(np.ones(1 << bits))
    array = rng.choice(values, 300_000, p=share)
    way = plan(array)
    assert way is not None
    entropy = -(share * np.log2(share)).sum() * len(array) / 8
    assert entropy * 0.99 < len(coded(way)) < entropy * 1.02 + 800 + 20 * len(array) / BLOCK
    states = 8 * (len(array) // BLOCK + 1)  # part of what the states at the start of a block hold
    assert stored_bytes(array) == pytest.approx(len(coded(way)), rel=0.02, abs=states)


def test_bfloat16_and_signed_bytes_are_told_apart_by_their_bits(tmp_path: Path) -> None:
    halves = np.array([0.0, -0.0, np.inf, np.nan] * 500, ml_dtypes.bfloat16)
    signed = np.array([-128, -1, 0, 127] * 500, np.int8)
    linked = Linked([halves.view(np.uint16), signed.view(np.uint8)], tmp_path)
    same(linked.values(), [halves.view(np.uint16), signed.view(np.uint8)])
    assert stored_bytes(halves) == stored_bytes(halves.view(np.uint16)) < 0.3 * halves.nbytes


# ---- Damage. ----


@pytest.mark.parametrize("name", ["few1-3", "few4-1", "few8-8197", "sparse2-8191", "sparse4-8197",
                                  "one4", "zeros8"])  # fmt: skip
def test_damaged_streams_are_survived(decoder: Path, tmp_path: Path, name: str) -> None:
    array = dict(examples())[name][:2000]
    way = plan(array)
    assert way is not None
    if name.startswith("sparse"):
        assert way.coder == "sparse"
    raw = coded(way)
    (tmp_path / "stream").write_bytes(raw)
    command = [decoder, tmp_path / "stream", way.coder, str(len(array)), str(array.itemsize)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused, other, right, *cut = map(int, done.stdout.split())
    assert refused + other + right == 3 * len(raw)
    assert right <= 3 * (8 + array.itemsize)  # the zeros at the end, and the number after the last
    assert cut == [len(raw), 0, 0]  # whatever is cut off is missed


def test_a_library_with_a_damaged_weight_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sparse = np.where(rng.random(3000) < 0.2, rng.normal(size=3000), 0).astype(np.float32)
    linked = Linked([rng.choice(np.array([1, 2, 3], np.float32), 900), sparse], tmp_path)
    assert [c.coder for c in linked.stored.coded] == ["indices", "sparse"]
    raw = linked.path.read_bytes()
    blob = (tmp_path / "weights.bin").read_bytes()
    start = raw.index(blob)
    for c in linked.stored.coded:
        for at in (*range(c.at, c.at + 60, 7), c.at + c.stored // 2, c.at + c.stored - 40):
            bad = bytearray(raw)
            bad[start + at] ^= 0x10
            path = tmp_path / f"bad{at}.so"
            path.write_bytes(bad)
            with pytest.raises(GraphoptError, match="the weights in the library are damaged"):
                linked.values(path)
    same(linked.values(), linked.arrays)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_the_checksum_sees_each_change_of_a_byte(raw: bytes, data: Any) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = bytearray(raw)
    changed[at] ^= data.draw(st.integers(1, 255))
    a, b = (np.frombuffer(bytes(x), np.uint8) for x in (raw, changed))
    assert checksum(a) != checksum(b)


# ---- Contexts. ----


def test_contexts_in_threads_share_what_is_decoded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.choice(rng.normal(size=16).astype(np.float32), 50_000) for _ in range(4)]
    linked = Linked(arrays, tmp_path)
    library, wrong = Library(linked.path, "go"), list[object]()

    def work() -> None:
        try:
            for _ in range(20):  # the last context frees them, the next decodes anew
                context = Context(library, 1)
                same(linked.run(context), arrays)
                context.close()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    one, two = Context(library, 1), Context(library, 1)
    assert one.buffer(0, (50_000,), np.dtype("float32")).ctypes.data == two.buffer(
        0, (50_000,), np.dtype("float32")).ctypes.data  # fmt: skip
    one.close()
    same(linked.run(two), arrays)
    two.close()


# ---- What is coded. ----


def blob_of(arrays: list[Array], storage: Storage) -> tuple[Stored, bytes]:
    program, file = constants(arrays), io.BytesIO()
    return store(program.weights, file, program.weight_bytes, storage), file.getvalue()


def test_auto_leaves_what_hardly_gets_smaller(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=40_000).astype(np.float32)
    bytes_ = np.clip(np.rint(rng.normal(size=40_000) * 40), -127, 127).astype(np.int8)
    shared = rng.choice(dense[:16], 40_000)
    half = np.where(np.arange(40_000) % 4 < 2, dense, np.float32(0))
    arrays = [dense, bytes_.view(np.uint8), shared, half, shared[:100]]
    auto, _ = blob_of(arrays, "auto")
    assert [c.coder for c in auto.constants] == ["", "", "indices", "sparse", ""]
    every, _ = blob_of(arrays, "coded")
    assert [c.coder for c in every.constants] == ["", "indices", "indices", "sparse", "indices"]
    plain, raw = blob_of(arrays, "plain")
    assert not plain.coded
    assert 0 <= constants(arrays).weight_bytes - len(raw) < 64
    assert len(raw) == plain.file_bytes
    assert blob_of(arrays, "auto") == (auto, blob_of(arrays, "auto")[1])  # the same bytes again
    unshared, raw = blob_of([dense, bytes_.view(np.uint8)], "auto")
    assert (unshared, raw) == blob_of([dense, bytes_.view(np.uint8)], "plain")


# ---- Bundles. ----

# 5x5: of 3x3, `plain` may take minimal filtering, whose rounding is another.
MODEL = """graph @main(%x: f32[1,16,9,9]) {
  %w = const rand 1 : f32[32,16,5,5]
  %c = conv(%x, %w) {strides=[1,1],pads=[2,2,2,2],dilations=[1,1],group=1} @ "first"
  %r = relu(%c) @ "relu"
  %m = reduce_mean(%r) {axes=[2,3],keepdims=false} @ "mean"
  %v = const rand 2 : f32[32,64]
  %y = matmul(%m, %v) @ "last"
  return(%y) {names=[y]}
}"""


def test_coded_weights_give_the_same_bits(tmp_path: Path) -> None:
    model = to_proto(graphopt.parse(MODEL)).SerializeToString()
    feed = {"x": np.random.default_rng(0).normal(size=(1, 16, 9, 9)).astype(np.float32)}
    found = dict[str, tuple[bytes, Any]]()
    for storage in ("plain", "coded", "auto"):
        result = graphopt.optimize(model, "x86", "default,cluster{bits=3}",
                                   build=Build(storage=storage))  # fmt: skip
        result.save(tmp_path / storage)
        told = json.loads((tmp_path / storage / "manifest.json").read_text())
        with Session(tmp_path / storage, 1) as session:
            found[storage] = session.run(feed)["y"].tobytes(), (result.report, told)
    assert len({y for y, _ in found.values()}) == 1
    report, told = found["auto"][1]
    assert told["stored_bytes"] == report.storage.stored_bytes < 0.15 * told["weight_bytes"]
    assert {row["coder"] for row in told["extra"]["coded"]} == {"indices"}
    assert 2.5 < report.storage.bits < 3.5  # 8 values a layer, and their tables
    assert f"{report.storage.bits:.2f} bits a weight; " in str(report.storage)
    assert "at run time, 2 constants decoded when it is loaded" in str(report.storage)
    report, told = found["plain"][1]
    assert told["stored_bytes"] == told["weight_bytes"]
    assert "coded" not in told["extra"]
