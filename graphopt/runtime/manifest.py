"""manifest.json: what a bundle holds, and all that a Session needs to run it.

The file is the JSON form of `Manifest`, with the key `graphopt_bundle` for the format's version
and `seal` for the SHA-256 of the rest.
A step is a range of kernels, run by the library, or a segment, run by ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar, cast

from graphopt.errors import InputError

FORMAT = 1
"""The version of the format that this module reads and writes."""

FORMAT_KEY = "graphopt_bundle"
SEAL_KEY = "seal"
FILE_NAME = "manifest.json"

PlaceName = Literal["input", "output", "weight", "arena", "dynamic"]
PLACES: tuple[PlaceName, ...] = ("input", "output", "weight", "arena", "dynamic")

Json = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: dtype as numpy names it (`float32`, `bfloat16`; `object`: strings).

    dtype and shape are None where they aren't known before the run: sequences, optionals, and
    values computed by ONNX Runtime. A dimension that isn't known is its name, or None.
    """

    name: str
    dtype: str | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class BufferSpec:
    """A buffer of the plan that is known outside the library.

    `index` is its number in the plan; `position` that of the model's input or output it is.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    place: PlaceName
    position: int = 0


@dataclass(frozen=True)
class KernelRange:
    """The steps [first, last) of the plan, all of them kernels."""

    first: int
    last: int


@dataclass(frozen=True)
class Segment:
    """One step of the plan, run by ONNX Runtime: pairs of its model's own names and buffers."""

    step: int
    model: str
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Layer:
    """One step of the plan, as a profile shows it; kernel is `onnxruntime` for a segment.

    Attributes:
        name: the last of its nodes.
        nodes: the ONNX nodes it computes.
        kernel: the function.
        macs: its multiply-accumulates.
        family: which of the kernel library's templates it was made from.
        key: the hash of all that decides the function's machine code; empty for a segment.
        flops: arithmetic operations that it needs, 2 a multiply-add.
        data_bytes: of activations that it must read and write, each once.
        weight_bytes: of constants that it must read.
        unit: the element type of its arithmetic.
        operands: the types of what it reads, as IR text (`f32[1,64,56,56:aBcd16b]`).
        results: the types of what it writes.
        ops: the kinds of its operations, in order.

    All from `family` on came later than the format's first bundles, which read as empty and 0.
    """

    name: str
    nodes: tuple[str, ...]
    kernel: str
    macs: int
    family: str = ""
    key: str = ""
    flops: int = 0
    data_bytes: int = 0
    weight_bytes: int = 0
    unit: str = "f32"
    operands: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileInfo:
    """Size and content of a file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    Attributes:
        name: the model's.
        versions: of graphopt and the packages that made the bundle.
        target: the text of the target it was compiled for.
        pipeline: the text of the passes it went through.
        arch: the machine it runs on, as `uname -m` says it; empty: any.
        cpu_features: what the machine's CPU must have, in names of /proc/cpuinfo or LLVM.
        library: the file with the compiled code.
        prefix: of the library's functions.
        inputs: the model's inputs, in its order.
        outputs: the model's outputs, in its order.
        input_buffers: the number of each input's buffer.
        output_buffers: the number of each output's buffer.
        steps: what to run, in order.
        buffers: those of inputs and outputs, and those that a segment reads or writes.
        layers: one for each step of the plan.
        arena_bytes: temporary memory of one context.
        weight_bytes: constants, as kernels read them.
        files: every other file of the bundle, by its path.
        hashes: of what the bundle was made from (`model`, `program`), SHA-256.
        extra: anything else that was measured or decided and can be replayed.
        stored_bytes: what the constants take in the library (0: not told, by older bundles).
    """

    name: str
    versions: dict[str, str]
    target: str
    pipeline: str
    arch: str
    cpu_features: tuple[str, ...]
    library: str
    prefix: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_buffers: tuple[int, ...]
    output_buffers: tuple[int, ...]
    steps: tuple[KernelRange | Segment, ...]
    buffers: tuple[BufferSpec, ...]
    layers: tuple[Layer, ...]
    arena_bytes: int
    weight_bytes: int
    files: dict[str, FileInfo]
    hashes: dict[str, str] = field(default_factory=dict[str, str])
    extra: dict[str, Any] = field(default_factory=dict[str, Any])
    stored_bytes: int = 0

    def to_json(self) -> str:
        """Give the text of manifest.json; the same manifest gives the same text."""
        fields = {k: v for k, v in asdict(self).items() if k != "steps"}
        fields["steps"] = [_show_step(s) for s in self.steps]
        return seal({FORMAT_KEY: FORMAT, **fields})

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Read the text of a manifest; InputError if it isn't one of this format."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the manifest is not JSON: {error}") from error
        if not isinstance(data, dict) or FORMAT_KEY not in data:
            raise InputError(f"the manifest has no {FORMAT_KEY!r}: it is not graphopt's")
        fields = cast("dict[str, Any]", data)
        if fields[FORMAT_KEY] != FORMAT:
            text = f"the bundle has format {fields[FORMAT_KEY]}; this graphopt reads {FORMAT}"
            raise InputError(text)
        try:
            manifest = _read(fields)
            if fields[SEAL_KEY] != _digest(fields):
                raise ValueError("it is not as it was written")
            return manifest
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"the manifest is damaged: {what}") from error

    @staticmethod
    def load(bundle: Path) -> Manifest:
        """Read the manifest of a bundle; InputError, naming the folder, if it isn't one."""
        path = bundle / FILE_NAME
        if not path.is_file():
            raise InputError(f"{bundle} is not a bundle: it has no {FILE_NAME}")
        try:
            return Manifest.from_json(path.read_text(encoding="utf-8"))
        except (InputError, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} can't be used: {error}") from error


def seal(fields: Json) -> str:
    """Give the text of a manifest with the hash of its own content.

    The library trusts the sizes and numbers of buffers that it is given, so a manifest that was
    damaged must not get that far.
    """
    sealed = {**fields, SEAL_KEY: _digest(fields)}
    return json.dumps(sealed, indent=1, sort_keys=True) + "\n"


def _digest(fields: Json) -> str:
    content = {k: v for k, v in fields.items() if k != SEAL_KEY}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _show_step(step: KernelRange | Segment) -> dict[str, Any]:
    kind = "kernels" if isinstance(step, KernelRange) else "onnxruntime"
    return {"kind": kind, **asdict(step)}


def _read(d: Json) -> Manifest:
    return Manifest(
        name=str(d["name"]),
        versions=_strings(d["versions"]),
        target=str(d["target"]),
        pipeline=str(d["pipeline"]),
        arch=str(d["arch"]),
        cpu_features=tuple(map(str, d["cpu_features"])),
        library=inside(d["library"]),
        prefix=str(d["prefix"]),
        inputs=_all(d["inputs"], _read_tensor),
        outputs=_all(d["outputs"], _read_tensor),
        input_buffers=tuple(map(int, d["input_buffers"])),
        output_buffers=tuple(map(int, d["output_buffers"])),
        steps=_all(d["steps"], _read_step),
        buffers=_all(d["buffers"], _read_buffer),
        layers=_all(d["layers"], _read_layer),
        arena_bytes=int(d["arena_bytes"]),
        weight_bytes=int(d["weight_bytes"]),
        files={
            inside(k): FileInfo(int(v["bytes"]), str(v["sha256"])) for k, v in d["files"].items()
        },
        hashes=_strings(d["hashes"]),
        extra=dict(d["extra"]),
        stored_bytes=int(d.get("stored_bytes", 0)),
    )


def inside(path: str) -> str:
    """Give back a path that stays in the bundle; ValueError for any other."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError(f"the path {path!r} leads out of the bundle")
    return path


def _all(items: list[Any], read: Callable[[Any], T]) -> tuple[T, ...]:
    return tuple(read(item) for item in items)


def _strings(d: Json) -> dict[str, str]:
    return {str(k): str(v) for k, v in d.items()}


def _read_tensor(d: Json) -> TensorSpec:
    shape = None if d["shape"] is None else tuple(d["shape"])
    dtype = None if d["dtype"] is None else str(d["dtype"])
    return TensorSpec(str(d["name"]), dtype, shape)


def _read_buffer(d: Json) -> BufferSpec:
    if d["place"] not in PLACES:
        raise ValueError(f"a buffer lies in {d['place']!r}")
    shape = tuple(map(int, d["shape"]))
    index, position = int(d["index"]), int(d["position"])
    return BufferSpec(index, str(d["name"]), str(d["dtype"]), shape, d["place"], position)


def _read_step(d: Json) -> KernelRange | Segment:
    if d["kind"] == "kernels":
        return KernelRange(int(d["first"]), int(d["last"]))
    if d["kind"] != "onnxruntime":
        raise ValueError(f"a step is a {d['kind']!r}")
    ends = (tuple((str(n), int(i)) for n, i in d[key]) for key in ("inputs", "outputs"))
    return Segment(int(d["step"]), inside(d["model"]), *ends)


def _read_layer(d: Json) -> Layer:
    return Layer(
        name=str(d["name"]),
        nodes=tuple(map(str, d["nodes"])),
        kernel=str(d["kernel"]),
        macs=int(d["macs"]),
        family=str(d.get("family", "")),
        key=str(d.get("key", "")),
        flops=int(d.get("flops", 0)),
        data_bytes=int(d.get("data_bytes", 0)),
        weight_bytes=int(d.get("weight_bytes", 0)),
        unit=str(d.get("unit", "f32")),
        operands=tuple(map(str, d.get("operands", ()))),
        results=tuple(map(str, d.get("results", ()))),
        ops=tuple(map(str, d.get("ops", ()))),
    )
