"""Damaged sample data: one sentence, no pickles, no surprise."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt.api
from graphopt.data import load_samples
from graphopt.errors import InputError
from graphopt.ir.core import Graph
from tests.fuzz import models

X = np.zeros((2, 1, 3, 8, 8), np.float32)


@cache
def graph() -> Graph:
    return graphopt.api.load(models.model("conv")).main


class Trap:
    """Unpickling this would show."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (print, ("a pickle was run",))


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, allow_pickle=True, **arrays)
    return path


def header(dtype: str, shape: str) -> bytes:
    """An .npy of any claims, without data."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


BAD: dict[str, dict[str, Any]] = {
    "another key": {"z": X},
    "another rank": {"x": X[0, 0]},
    "another size": {"x": X[..., :7]},
    "another type": {"x": X.astype(np.float64)},
    "complex": {"x": X.astype(np.complex64)},
    "texts": {"x": np.full(X.shape, "a")},
    "times": {"x": X.astype("datetime64[s]")},
    "records": {"x": np.zeros(2, [("a", "f4")])},
    "objects": {"x": np.array([Trap()], object)},
    "no samples": {"x": X[:0]},
    "a scalar": {"x": np.float32(1)},
    "NaN": {"x": np.full_like(X, np.nan)},
    "infinity": {"x": np.full_like(X, -np.inf)},
    "nothing": {},
}


@pytest.mark.parametrize("name", [*BAD])
def test_arrays_that_do_not_fit(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError) as why:
        load_samples(saved(tmp_path / "x.npz", **BAD[name]), graph())
    assert len(str(why.value).splitlines()) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("<f4", "(2, 1, 3, 8, 8)"), ("<f4", "(1000000000000,)"), ("<f4", "(-1,)"), ("|O", "(1,)"),
     ("<f4", "(9223372036854775807, 8)"), ("<f4", "'x'"), ("nonsense", "(1,)"), ("<f4", "(")],
)  # fmt: skip
def test_headers_that_lie(dtype: str, shape: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("x.npy", header(dtype, shape))
    with pytest.raises(InputError):
        load_samples(tmp_path / "x.npz", graph())


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", header("<f4", "(2, 1, 3, 8, 8)") + b"\0" * 10_000_000)
    with pytest.raises(InputError):
        load_samples(saved(tmp_path / "x.npz", x=X[..., :1]), graph())


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=X)
    path = tmp_path / "x.npz"
    for _ in range(50):
        data = bytearray(buffer.getvalue())
        for _ in range(rng.choice([1, 3, 20])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            load_samples(path, graph())
        except InputError as why:
            assert len(str(why).splitlines()) == 1


def test_what_is_no_npz(tmp_path: Path) -> None:
    for name, content in {"a.npz": b"", "b.npz": b"PK\x05\x06" + b"\0" * 18, "c.npz": b"x"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError):
            load_samples(tmp_path / name, graph())
    np.save(tmp_path / "d.npy", X)
    with pytest.raises(InputError):
        load_samples(tmp_path / "d.npy", graph())
    with pytest.raises(InputError):
        load_samples(tmp_path / "none.npz", graph())
