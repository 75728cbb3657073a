"""`graphopt run`: run a bundle on the arrays of a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli.options import Bundle, Threads, existing, writable
from graphopt.errors import InputError

if TYPE_CHECKING:
    from graphopt.ir.types import Array


def run(
    bundle: Bundle,
    input: Annotated[
        Path, typer.Option(metavar="X.npz", show_default=False, help="Arrays by input name.")
    ],
    output: Annotated[
        Path, typer.Option(metavar="Y.npz", show_default=False, help="Gets arrays by output name.")
    ],
    threads: Threads = None,
) -> None:
    """Run a bundle on the arrays of an .npz; needs no compiler and no TVM.

    A bundle for another CPU runs under qemu, which needs a C compiler for it.
    """
    place = writable(output)
    arrays = read_npz(input)
    write_npz(place, _results(existing(bundle), arrays, threads))


def _results(bundle: Path, arrays: Mapping[str, Array], threads: int | None) -> Mapping[str, Any]:
    from graphopt.runtime import Manifest, Session
    from graphopt.runtime.cpu import is_native

    manifest = Manifest.load(bundle)
    if not is_native(manifest.arch):
        from graphopt.targets import elsewhere

        return elsewhere.run(bundle, manifest, [arrays], threads)[0]
    with Session(bundle, threads=threads) as session:
        return session.run(arrays)


def read_npz(path: Path) -> dict[str, Array]:
    """Every array of an .npz.

    Raises:
        InputError: it isn't one, or is damaged.
    """
    import zipfile
    import zlib

    import numpy as np

    try:
        with np.load(existing(path), allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: holds one array; an .npz has them by input name")
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as why:
        raise InputError(f"{path}: can't read it as .npz: {why}") from why


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as .npz, all of them or nothing.

    Raises:
        InputError: it can't be written, or a value isn't a plain array.
    """
    import numpy as np

    # Sequences come as lists; strings as arrays of objects, which numpy would have to pickle.
    odd = [n for n, a in arrays.items() if getattr(a, "dtype", np.dtype("O")).hasobject]
    if odd:
        raise InputError(f"output {odd[0]!r} is no plain array, which an .npz can't hold")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(path)
    except OSError as why:
        raise InputError(f"{path}: can't write: {why.strerror}") from why
    finally:
        temporary.unlink(missing_ok=True)
