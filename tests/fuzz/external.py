# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""Weights in files: names that escape, ranges that don't exist, files that aren't."""

from __future__ import annotations

import os
import random
from pathlib import Path

import onnx
from onnx import external_data_helper

ESCAPES = ("../secret.bin", "/etc/passwd", "sub/../../secret.bin", "", ".", "..", "\0", "./w.bin",
           "folder", "none.bin", "link.bin", "linkdir/secret.bin", "fifo", "x" * 5000, "w.bin/x",
           "<self>", "model.onnx", "C:\\x", "file:///etc/passwd", "loop", "/dev/zero")  # fmt: skip
NUMBERS = ("-1", "0", "1", "", "x", "1e3", " 4", "99999999999999999999", str(2**63), str(2**40),
           "4096", "0x10", "١", "-0", "3.5", "1" * 5000)  # fmt: skip


def mutate(rng: random.Random, model: onnx.ModelProto, path: Path) -> str:
    """Save with external data, damage the entries or the files; gives what was done."""
    folder = path.parent
    inside = folder / "model"
    _surroundings(folder)
    onnx.save_model(model, str(path), save_as_external_data=True, location="w.bin",
                    size_threshold=rng.choice([0, 0, 16]), convert_attribute=rng.random() < 0.3)  # fmt: skip
    assert not inside.exists()
    model = onnx.load_model(str(path), load_external_data=False)
    outside = [t for t in model.graph.initializer if external_data_helper.uses_external_data(t)]
    if not outside:
        return "nothing is external"
    what = _damage(rng, outside, folder / "w.bin")
    path.write_bytes(model.SerializeToString())
    return what


def _surroundings(folder: Path) -> None:
    """What a hostile name may point to."""
    (folder / "folder").mkdir()
    (folder / "link.bin").symlink_to("/etc/passwd")
    (folder / "linkdir").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")


def _damage(rng: random.Random, outside: list[onnx.TensorProto], data: Path) -> str:
    t = rng.choice(outside)
    match rng.randrange(8):
        case 0 | 1 | 2:
            return _set(t, "location", rng.choice(ESCAPES))
        case 3 | 4:
            return _set(t, rng.choice(["offset", "length"]), rng.choice(NUMBERS))
        case 5:
            whole = data.read_bytes()
            data.write_bytes(whole[: rng.choice([0, 1, len(whole) // 2, len(whole) - 1])])
            return "shorter file"
        case 6:
            t.dims.append(rng.choice([2, 2**40, -1, 0]))
            return f"dims {list(t.dims)}"
        case _:
            return _other(rng, t, data)


def _set(t: onnx.TensorProto, key: str, value: str) -> str:
    entries = [e for e in t.external_data if e.key == key] or [t.external_data.add(key=key)]
    entries[0].value = value
    return f"{key}={value[:40]!r}"


def _other(rng: random.Random, t: onnx.TensorProto, data: Path) -> str:
    match rng.randrange(5):
        case 0:
            data.unlink()
            return "no file"
        case 1:
            data.unlink()
            data.symlink_to(rng.choice(["/etc/passwd", "w.bin", "/dev/zero", "folder"]))
            return "a link in its place"
        case 2:
            del t.external_data[:]
            return "no entries"
        case 3:
            t.raw_data = b"1234"
            return "both"
        case _:
            t.external_data.add(key="location", value="/etc/passwd")
            return "two locations"
