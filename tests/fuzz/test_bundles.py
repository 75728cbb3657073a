# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""Damaged bundles: an error when they are opened, never a crash of the process that opens them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.errors import GraphoptError, InputError
from graphopt.runtime import Session
from tests.fuzz import models
from tests.fuzz.edit import NASTY

X = {"x": np.ones((1, 2, 4, 4), np.float32)}
ODD: tuple[Any, ...] = (*NASTY, None, "", "x", "../x", [], {}, [1], True, 0.5, "float99", -1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with kernels and, for the custom-less sequence part, a segment."""
    place = tmp_path_factory.mktemp("fuzz") / "b"
    graphopt.optimize(models.model("old"), target="x86").save(place)
    return place


def tried(path: Path, **options: Any) -> str:
    try:
        with Session(path, threads=1, **options) as session:
            session.run(X)
    except GraphoptError as why:
        assert len(str(why).splitlines()) == 1
        return type(why).__name__
    return "ok"


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a JSON document."""
    items = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list) else ()
    )  # fmt: skip
    inner = [p for k, v in items for p in places(v, (*at, k))]  # pyright: ignore
    return ([at] if at else []) + inner


def changed(text: str, rng: random.Random) -> str:
    """The manifest with a value replaced, dropped or doubled."""
    document: Any = json.loads(text)
    *above, last = rng.choice(places(document))
    holder = document
    for key in above:
        holder = holder[key]
    if rng.random() < 0.2:
        del holder[last]
    elif isinstance(holder, list) and rng.random() < 0.3:
        holder.append(holder[last])  # pyright: ignore
    else:
        holder[last] = rng.choice(ODD)
    return json.dumps(document)


def test_it_is_whole(bundle: Path) -> None:
    assert tried(bundle) == "ok"
    assert tried(bundle, verify=True) == "ok"


@pytest.mark.parametrize("seed", range(6))
def test_damaged_manifests(seed: int, bundle: Path, tmp_path: Path) -> None:
    rng = random.Random(seed)
    copy = shutil.copytree(bundle, tmp_path / "b")
    whole = (bundle / "manifest.json").read_text()
    for _ in range(60):
        text = changed(whole, rng)
        (copy / "manifest.json").write_text(text)
        same = text == json.dumps(json.loads(whole))  # as text, for in Python True equals 1
        assert tried(copy) == ("ok" if same else "InputError"), text


def test_damaged_bytes_of_a_manifest(bundle: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    copy = shutil.copytree(bundle, tmp_path / "b")
    whole = (bundle / "manifest.json").read_bytes()
    for _ in range(150):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (copy / "manifest.json").write_bytes(data[: rng.choice([len(data), rng.randrange(99)])])
        assert tried(copy) in ("ok", "InputError")  # ok: white space, or a digit's case


@pytest.mark.parametrize("text", ["[" * 100_000, '{"graphopt_bundle": 1e999}', "9" * 5000, "NaN"])
def test_json_that_is_no_manifest(text: str, bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "b")
    (copy / "manifest.json").write_text(text)
    assert tried(copy) == "InputError"


def test_a_damaged_library_is_refused_before_it_is_loaded(bundle: Path, tmp_path: Path) -> None:
    """By its size always, by its hash with `verify`."""
    rng = random.Random(0)
    copy = shutil.copytree(bundle, tmp_path / "b")
    whole = (bundle / "libmodel.so").read_bytes()
    for _ in range(20):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 100])):
            data[rng.randrange(len(data))] ^= 255
        (copy / "libmodel.so").write_bytes(data)
        with pytest.raises(InputError, match=r"libmodel\.so is not the file"):
            Session(copy, verify=True)
        (copy / "libmodel.so").write_bytes(whole[: rng.randrange(len(whole))])
        with pytest.raises(InputError, match=r"libmodel\.so is not the file"):
            Session(copy)


def test_a_missing_file_and_a_link_out(bundle: Path, tmp_path: Path) -> None:
    for name in ("libmodel.so", "model.onnx", "manifest.json"):
        copy = shutil.copytree(bundle, tmp_path / name)
        (copy / name).unlink()
        with pytest.raises(InputError):
            Session(copy)
