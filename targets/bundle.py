"""Program + objects -> a bundle: the folder that is shipped and that Session runs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError, InputError
from graphopt.folders import replace, resolved
from graphopt.later import Later
from graphopt.runtime.manifest import (
    FILE_NAME,
    FORMAT_KEY,
    BufferSpec,
    FileInfo,
    KernelRange,
    Layer,
    Manifest,
    PlaceName,
    Segment,
    TensorSpec,
    inside,
)
from graphopt.targets.driver.generate import WEIGHTS_FILE, generate
from graphopt.targets.driver.toolchain import Toolchain, link
from graphopt.targets.program import (
    Arena,
    Buffer,
    Dynamic,
    FallbackCall,
    Input,
    Kernel,
    KernelCall,
    Output,
    Program,
    Step,
    Weight,
    Workspace,
)
from graphopt.targets.stored.blob import Storage, Stored, store

LIBRARY = "libmodel.so"
ARCHIVE = "libmodel.a"
MODEL = "model.onnx"

NO_WORKSPACE = Workspace()

Content = bytes | Callable[[Path], object]
"""A file's bytes, or a function that writes the file at the path it is given."""


@dataclass(frozen=True)
class Meta:
    """What a bundle's manifest says beyond the program.

    Attributes:
        target: the target's text.
        pipeline: the passes' text.
        versions: of graphopt and the packages used.
        arch: the machine, as `uname -m` says it; empty: this one.
        cpu_features: what the machine's CPU must have.
        inputs: the model's inputs, where the program can't tell (dynamic values, other names).
        outputs: the same for its outputs.
        hashes: of what the bundle was made from, SHA-256.
        extra: anything else that was measured or decided (costs, tuning), as JSON values.
    """

    target: str = ""
    pipeline: str = ""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    arch: str = ""
    cpu_features: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    hashes: Mapping[str, str] = field(default_factory=dict[str, str])
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


def write(
    program: Program,
    objects: Sequence[Path],
    directory: str | os.PathLike[str],
    *,
    model: Content,
    meta: Meta,
    files: Mapping[str, Content] | None = None,
    toolchain: Toolchain | None = None,
    prefix: str = "go",
    amx: bool = False,
    storage: Storage = "auto",
    static: bool = False,
    workspace: Workspace = NO_WORKSPACE,
    cache: Path | None = None,
) -> Manifest:
    """Write a bundle: all of it, or nothing.

    Args:
        program: what the bundle runs.
        objects: the object files of its kernels, or their C files: then the bundle has `model.c`.
        directory: the folder; one that exists is replaced if it is a bundle (or empty).
        model: the optimized model, for `model.onnx`.
        meta: what the manifest says beyond the program.
        files: more files, by their path in the bundle.
        toolchain: the C compiler; None: the one `toolchain.find` finds.
        prefix: of the C functions.
        amx: whether kernels use AMX tiles.
        storage: which constants are stored in fewer bytes, to be decoded when they are needed.
        static: whether there is a static library, too.
        workspace: the memory that kernels ask for.
        cache: a folder where the compiled driver is kept; None: nowhere.

    Returns:
        The manifest written.

    Raises:
        InputError: the folder exists and is something else.
        UnsupportedError: there is no C compiler, or the program is beyond it.
    """
    target = resolved(Path(directory))
    _check_replaceable(target)
    segments = _segments(program)
    contents = {MODEL: model, **segments, **(files or {})}
    with _staged(target) as stage:
        blob = stage.parent / WEIGHTS_FILE
        with blob.open("wb") as file:
            stored = store(program.weights, file, program.weight_bytes, storage)
        portable = bool(objects) and all(path.suffix == ".c" for path in objects)
        sources = generate(
            program, prefix=prefix, amx=amx, stored=stored, workspace=workspace,
            kernels=objects if portable else None, weights=blob,
        )  # fmt: skip
        link(objects, sources, blob, stage / LIBRARY, toolchain=toolchain, prefix=prefix,
             static=stage / ARCHIVE if static else None, cache=cache)  # fmt: skip
        for name in ("model.h", "main.c", "model.c"):
            if name in sources:
                contents[name] = sources[name].encode()
        for name, content in contents.items():
            _write_file(stage / inside(name), content)
        manifest = _manifest(program, meta, prefix, _file_infos(stage), stored)
        (stage / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def publish(
    source: Path, directory: str | os.PathLike[str], files: Mapping[str, Content] | None = None
) -> None:
    """Copy a finished bundle to its place: all of it, or nothing.

    Args:
        source: a bundle that `write` made.
        directory: as for `write`.
        files: more files that the manifest doesn't list, such as a report of measurements.

    Raises:
        InputError: the folder exists and is something else, or can't be written.
    """
    target = resolved(Path(directory))
    _check_replaceable(target)
    with _staged(target) as stage:
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            place = stage / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place_file(path, place)
        for name, content in (files or {}).items():
            _write_file(stage / inside(name), content)


def place_file(source: str | Path, target: str | Path) -> None:
    """Put a file of a temporary folder at its place: once by a link, where that can be.

    One that has two places already is copied, so that no two bundles share a file.
    """
    try:
        if Path(source).stat().st_nlink == 1:
            os.link(source, target)
            return
    except OSError:
        pass  # another file system, or one without links
    shutil.copy2(source, target)


def is_bundle(directory: Path) -> bool:
    """Whether the folder has a graphopt manifest, of any format."""
    try:
        data = json.loads((directory / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and FORMAT_KEY in data


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    empty = target.is_dir() and not any(target.iterdir())
    if not empty and not is_bundle(target):
        raise InputError(f"{target} exists and is not a graphopt bundle: it is left as it is")


@contextmanager
def _staged(target: Path) -> Generator[Path, None, None]:
    """A folder beside the target that takes its place when the `with` ends well."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror}") from error
    try:
        stage = holder / "new"
        stage.mkdir()
        yield stage
        replace(stage, target, holder / "old")
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _write_file(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    content(path)
    if not path.is_file():
        raise GraphoptError(f"nothing was written to {path.name}")


def _segments(program: Program) -> dict[str, Content]:
    return {f"segments/{i}.onnx": call.model for i, call in enumerate(program.fallbacks())}


def _file_infos(stage: Path) -> dict[str, FileInfo]:
    paths = sorted(p for p in stage.rglob("*") if p.is_file())
    library = Later(lambda: _digest(stage / LIBRARY))  # half of the bytes, on another core
    found = {p: _digest(p) for p in paths if p != stage / LIBRARY}
    found[stage / LIBRARY] = library.wait()
    return {p.relative_to(stage).as_posix(): FileInfo(p.stat().st_size, found[p]) for p in paths}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(
    p: Program, meta: Meta, prefix: str, files: dict[str, FileInfo], stored: Stored
) -> Manifest:
    program_hash = hashlib.sha256(str(p).encode()).hexdigest()
    return Manifest(
        name=p.name,
        versions=dict(meta.versions),
        target=meta.target,
        pipeline=meta.pipeline,
        arch=meta.arch or platform.machine(),
        cpu_features=meta.cpu_features,
        library=LIBRARY,
        prefix=prefix,
        inputs=_specs(p, p.inputs, meta.inputs),
        outputs=_specs(p, p.outputs, meta.outputs),
        input_buffers=p.inputs,
        output_buffers=p.outputs,
        steps=tuple(_steps(p)),
        buffers=tuple(_buffer(i, p.buffers[i]) for i in sorted(_known_outside(p))),
        layers=_layers(p),
        arena_bytes=p.arena_bytes,
        weight_bytes=p.weight_bytes,
        files=files,
        hashes={"program": program_hash, **meta.hashes},
        extra={**meta.extra, **_coded(p, stored)},
        stored_bytes=stored.file_bytes,
    )


def _coded(p: Program, stored: Stored) -> dict[str, Any]:
    """The constants that are stored in fewer bytes, by the names of their buffers."""
    places = ((b.place, b.name) for b in p.buffers)
    names = {place.offset: name for place, name in places if isinstance(place, Weight)}
    rows = [
        {"name": names.get(c.offset, ""), "coder": c.coder, "bytes": c.nbytes, "stored": c.stored}
        for c in stored.coded
    ]
    return {"coded": rows} if rows else {}


def _specs(
    p: Program, indices: tuple[int, ...], given: tuple[TensorSpec, ...] | None
) -> tuple[TensorSpec, ...]:
    if given is None:
        return tuple(_spec(p.buffers[i]) for i in indices)
    if len(given) != len(indices):
        raise GraphoptError(f"program {p.name}: {len(given)} specs of {len(indices)} tensors")
    return given


def _spec(b: Buffer) -> TensorSpec:
    shape = None if isinstance(b.place, Dynamic) else b.shape
    return TensorSpec(b.name, b.dtype.value[0], shape)


def _known_outside(p: Program) -> set[int]:
    """The buffers that Session has to know: the model's ends and the segments' ends."""
    ends = (i for call in p.fallbacks() for _, i in (*call.inputs, *call.outputs))
    return {*p.inputs, *p.outputs, *ends}


def _buffer(index: int, b: Buffer) -> BufferSpec:
    place, position = _place(b)
    return BufferSpec(index, b.name, b.dtype.value[0], b.shape, place, position)


def _place(b: Buffer) -> tuple[PlaceName, int]:
    match b.place:
        case Input(index):
            return "input", index
        case Output(index):
            return "output", index
        case Weight():
            return "weight", 0
        case Arena():
            return "arena", 0
        case Dynamic():
            return "dynamic", 0


def _steps(p: Program) -> Iterator[KernelRange | Segment]:
    """The program's steps, with neighbouring kernels as one range."""
    first = 0
    segments = 0
    for i, step in enumerate(p.steps):
        if not isinstance(step, FallbackCall):
            continue
        if first < i:
            yield KernelRange(first, i)
        yield Segment(i, f"segments/{segments}.onnx", step.inputs, step.outputs)
        first = i + 1
        segments += 1
    if first < len(p.steps):
        yield KernelRange(first, len(p.steps))


def _layers(p: Program) -> tuple[Layer, ...]:
    kernels = {k.symbol: k for k in p.kernels}
    return tuple(_layer(i, step, kernels) for i, step in enumerate(p.steps))


def _layer(index: int, step: Step, kernels: Mapping[str, Kernel]) -> Layer:
    symbol = step.kernel if isinstance(step, KernelCall) else "onnxruntime"
    kernel, work = kernels.get(symbol), step.work
    return Layer(
        name=step.nodes[-1] if step.nodes else f"{symbol}#{index}",
        nodes=step.nodes,
        kernel=symbol,
        macs=step.macs,
        family=kernel.family if kernel else symbol,
        key=kernel.key if kernel else "",
        flops=work.flops,
        data_bytes=work.data_bytes,
        weight_bytes=work.weight_bytes,
        unit=work.unit,
        operands=step.operands,
        results=step.results,
        ops=step.ops,
    )
