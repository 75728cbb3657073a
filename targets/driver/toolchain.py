"""The C compiler: find one, and link kernels, driver and weights into one shared library.

The result depends on the inputs only: the compiler runs in a directory of its own on files with
fixed names, and nothing (paths, times, build ids) of the machine gets into the library.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.errors import GraphoptError, UnsupportedError
from graphopt.targets.cache import keep_hashed, kept_hashed
from graphopt.targets.driver import placed
from graphopt.targets.driver.archive import archive, localize
from graphopt.targets.driver.generate import PUBLIC, WEIGHTS_FILE
from graphopt.targets.program import WeightData
from graphopt.targets.stored.blob import store

MODEL = "model.c"
WEIGHTS_OBJECT = "weights.o"
STATIC_FLAGS = ("-std=c11", "-O2", "-static", "-Wall")
COMPILE_FLAGS = (
    *("-std=c11", "-O2", "-g0", "-fPIC"),
    *("-ffile-prefix-map=.=", "-fno-ident", "-fno-sanitize=all"),
    *("-Wall", "-Wextra", "-Werror"),
)
# Of a file that has kernels, too: generated code, at which compilers wonder for no reason.
PORTABLE_FLAGS = ("-O3", "-fwrapv", "-fno-math-errno", "-w")
LINK_FLAGS = (
    *("-shared", "-Wl,--build-id=none", "-Wl,--version-script=version.map", "-Wl,-S"),
    *("-Wl,-z,noexecstack", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,defs", "-Wl,-Bsymbolic"),
)
JOIN_FLAGS = ("-r", "-nostdlib", "-Wl,-S")
LIBRARIES = ("-lpthread", "-lm")

_ZIG_GLIBC = "2.28"  # what zig links a library against: old enough for every supported system


@dataclass(frozen=True)
class Toolchain:
    """A C compiler driver, as the start of a command line; `text` names it in messages.

    `arch` is what it compiles for, as `uname -m` says it (empty: not known), and `alone` the
    command for programs that need no library at all, where that is another one.
    """

    command: tuple[str, ...]
    arch: str = ""
    alone: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The command, as one would type it."""
        return shlex.join(self.command)

    @property
    def flags(self) -> tuple[str, ...]:
        """What the driver is compiled with: gcc's atomics for AArch64 would be calls of libgcc."""
        return (*COMPILE_FLAGS, *(("-mno-outline-atomics",) if self.arch == "aarch64" else ()))

    def static(self) -> Toolchain:
        """The same for static programs."""
        return replace(self, command=self.alone or self.command)


def find(triple: str | None = None) -> Toolchain:
    """Find a C compiler.

    Args:
        triple: the machine to compile for, such as `aarch64-linux-gnu`; None: this machine.

    Returns:
        `$CC` or `cc` (for another machine `TRIPLE-gcc`), else PyPI's ziglang.

    Raises:
        UnsupportedError: there is none; the message has the command that installs one.
    """
    arch = triple.split("-")[0] if triple else platform.machine()
    command = _cross(triple) if triple else _native()
    if command:
        return Toolchain(command, arch)
    if command := _zig(triple):
        return Toolchain(command, arch, _zig(_musl(triple)) if triple else ())
    if triple:
        fix = "`pip install 'graphopt[arm]'`"
        raise UnsupportedError(f"no C compiler for {triple} was found: {fix}")
    raise UnsupportedError("no C compiler (cc) was found: run `pip install ziglang`, or set CC")


def link(
    objects: Sequence[Path],
    sources: Mapping[str, str],
    weights: Iterable[WeightData] | Path,
    output: Path,
    *,
    weight_bytes: int | None = None,
    toolchain: Toolchain | None = None,
    static: Path | None = None,
    prefix: str = "go",
    cache: Path | None = None,
) -> Path:
    """Compile the driver and link it with kernels and weights into the shared library `output`.

    Args:
        objects: the kernels' object files, linked in this order.
        sources: the texts `driver.generate` gave.
        weights: the constants; each is loaded, written and let go in turn. Or the file in which
            `stored.blob.store` has written them.
        output: the library's path; it appears there complete or not at all.
        weight_bytes: the size of the weights blob; None: up to its last constant.
        toolchain: the C compiler; None: `find()`.
        static: where a static library of the same goes, too.
        prefix: of the interface's functions.
        cache: a folder where the compiled driver is kept, by its content; None: nowhere.

    Returns:
        `output`.

    Raises:
        UnsupportedError: there is no C compiler.
        GraphoptError: the compiler failed (its first error is in the message).
    """
    toolchain = toolchain or find()
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as name:
        folder = Path(name)
        for file, text in sources.items():
            (folder / file).write_text(text, encoding="utf-8")
        if isinstance(weights, Path):
            (folder / WEIGHTS_FILE).symlink_to(weights.resolve(strict=True))
        else:
            with (folder / WEIGHTS_FILE).open("wb") as blob:
                store(weights, blob, weight_bytes or 0, "plain")
        inputs = _compile(toolchain, folder, objects, _Kept(cache, toolchain))
        job = _Link(toolchain, folder, [f"-Wl,-soname,{output.name}", *inputs, *LIBRARIES])
        if static or not job.placed():
            job.whole()
        if static:
            public = [f"{prefix}_{name}" for name in PUBLIC]
            joined = _joined(toolchain, folder, inputs, public)
            (folder / "library.a").write_bytes(archive(joined, public))
            os.replace(folder / "library.a", static)
        os.replace(folder / "library.so", output)
    return output


def _compile(
    toolchain: Toolchain, folder: Path, objects: Sequence[Path], kept: _Kept
) -> list[str]:
    """Make the object files of a library, all in `folder`: of one C file where that is all."""
    if (folder / MODEL).exists():
        kept.compile(folder, MODEL, "model.o", PORTABLE_FLAGS)
        return ["model.o"]
    kept.compile(folder, "plan.c", "plan.o")
    return ["plan.o", *_stage(objects, folder), WEIGHTS_OBJECT]


@dataclass(frozen=True)
class _Link:
    """The library of the objects in a folder, one of which is yet to be made: the weights."""

    toolchain: Toolchain
    folder: Path
    args: list[str]

    def placed(self) -> bool:
        """Link it, then write the weights into it (`driver.placed`); False if that isn't done."""
        weights = self.folder / WEIGHTS_FILE
        if WEIGHTS_OBJECT not in self.args or weights.stat().st_size < placed.PAYS:
            return False
        (self.folder / "weights.ld").write_text(placed.SCRIPT, encoding="utf-8")
        try:
            self._run("-DPLACED", "-Wl,-T,weights.ld")
        except GraphoptError:
            return False  # another linker; if that isn't the reason, `whole` says what is
        return placed.place(self.folder / "library.so", weights)

    def whole(self) -> None:
        """Have the linker copy the weights, as everything else."""
        self._run()

    def _run(self, define: str = "", script: str = "") -> None:
        """Assemble the weights, if they are an object of their own, and link."""
        if WEIGHTS_OBJECT in self.args:
            assemble = ["-g0", *filter(None, [define]), "-c", "weights.S", "-o", WEIGHTS_OBJECT]
            run(self.toolchain, assemble, self.folder)
        flags = [*LINK_FLAGS, *filter(None, [script])]
        run(self.toolchain, [*flags, "-o", "library.so", *self.args], self.folder)


@dataclass(frozen=True)
class _Kept:
    """Compiled drivers in a cache folder, by what they are made of: texts, flags and compiler."""

    cache: Path | None
    toolchain: Toolchain

    def compile(self, folder: Path, source: str, made: str, flags: tuple[str, ...] = ()) -> None:
        """Make `folder/made` of `folder/source` and the headers beside it."""
        flags = (*self.toolchain.flags, *flags)
        place = self._place(folder, source, flags)
        found = kept_hashed(place) if place else None
        if found is not None:
            (folder / made).write_bytes(found)
            return
        run(self.toolchain, [*flags, "-c", source, "-o", made], folder)
        if place:
            keep_hashed(place, (folder / made).read_bytes())

    def _place(self, folder: Path, source: str, flags: tuple[str, ...]) -> Path | None:
        """Where it is kept; None: nowhere, as for a compiler that can't be told from others."""
        programs = [Path(p).resolve() for p in map(shutil.which, self.toolchain.command) if p]
        if self.cache is None or not programs:
            return None
        known = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in programs]
        texts = [folder / source, *sorted(folder.glob("*.h"))]
        read = [(file.name, file.read_text(encoding="utf-8")) for file in texts]
        of = [self.toolchain.command, known, _zig_version(), flags, read]
        digest = hashlib.sha256(json.dumps(of).encode()).hexdigest()
        return self.cache / f"driver-{digest[:32]}"


def _joined(
    toolchain: Toolchain, folder: Path, inputs: Sequence[str], public: Sequence[str]
) -> bytes:
    """One object file of several, with nothing to be seen but the interface."""
    if len(inputs) == 1:  # C's `static` has seen to it
        return (folder / inputs[0]).read_bytes()
    run(toolchain, [*JOIN_FLAGS, "-o", "joined.o", *inputs], folder)
    return localize((folder / "joined.o").read_bytes(), public)


def run(toolchain: Toolchain, args: Sequence[str], folder: Path) -> None:
    """Run the compiler in `folder`; GraphoptError with its first error line if it fails."""
    environment = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    command = [*toolchain.command, *args]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        text = f"the C compiler {toolchain.text!r} does not start: {error}"
        raise UnsupportedError(text) from error
    if done.returncode:
        raise GraphoptError(f"the C compiler {toolchain.text!r} failed: {_first_error(done)}")


def _first_error(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line or "undefined" in line]
    return (errors or lines or [f"exit code {done.returncode}"])[0]


def _stage(objects: Sequence[Path], folder: Path) -> list[str]:
    """Give the objects names that don't depend on where they lie."""
    names = [f"kernels{i}.o" for i in range(len(objects))]
    for name, path in zip(names, objects, strict=True):
        (folder / name).symlink_to(path.resolve(strict=True))
    return names


def _native() -> tuple[str, ...]:
    if os.environ.get("CC"):
        return tuple(shlex.split(os.environ["CC"]))
    return ("cc",) if shutil.which("cc") else ()


def _cross(triple: str) -> tuple[str, ...]:
    name = f"{re.sub('^armv7', 'arm', triple)}-gcc"  # as Debian calls it
    return (name,) if shutil.which(name) else ()


def _zig_version() -> str:
    """What `python -m ziglang` is, if it is there: the command doesn't tell."""
    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _musl(triple: str) -> str:
    """With the C library that zig can link into a program."""
    return re.sub(r"-gnu(\w*)$", r"-musl\1", triple)


def _zig(triple: str | None) -> tuple[str, ...]:
    if importlib.util.find_spec("ziglang") is None:
        return ()
    triple = re.sub("^armv7-", "arm-", triple) if triple else None
    target = f"{triple}.{_ZIG_GLIBC}" if triple and "-gnu" in triple else triple
    return (sys.executable, "-m", "ziglang", "cc", *(("-target", target) if target else ()))
