"""The short form of `tools/bench_arm.py`: two small models as a Neoverse N1 under qemu, no peers."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from graphopt.errors import GraphoptError
from graphopt.targets import machine
from graphopt.targets.driver import toolchain
from graphopt.targets.emulator import qemu

ROOT = Path(__file__).parents[1]
MODELS = [ROOT / "models" / name for name in ("digits_dscnn.onnx", "fmnist_vit.onnx")]


@pytest.fixture(scope="module", autouse=True)
def on_path() -> None:
    sys.path.append(str(ROOT / "tools"))


def part(name: str) -> ModuleType:
    return importlib.import_module(f"arm_bench.{name}")


def missing() -> str:
    """What the short form needs and this computer lacks."""
    target = machine.load("neoverse-n1")
    try:
        toolchain.find(target.triple)
        return "" if qemu.find(target).exact else "this qemu knows no such CPU"
    except GraphoptError as why:
        return str(why)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if why := missing():
        pytest.skip(why)
    out = tmp_path_factory.mktemp("arm") / "rows.json"
    command = [sys.executable, str(ROOT / "tools/bench_arm.py"), "--quick", "--json", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *map(str, MODELS)], env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "instructions of one inference" in done.stdout
    return json.loads(out.read_text())


def test_both_models_and_types_run(rows: list[dict[str, Any]]) -> None:
    assert {(r["model"], r["kind"]) for r in rows} == {
        (m.stem, kind) for m in MODELS for kind in ("fp32", "int8")
    }


def test_their_numbers_are_right(rows: list[dict[str, Any]]) -> None:
    for row in rows:  # int8: seeded noise through a trained model, so only that it is no nonsense
        assert row["error"] < {"fp32": 1e-5, "int8": 0.5}[row["kind"]], row["model"]


def test_vectors_do_the_work(rows: list[dict[str, Any]]) -> None:
    """Scalar code would be at most one multiply-add an instruction; int8 takes fewer than float32."""
    counts = {(r["model"], r["kind"]): r for r in rows}
    for model in (m.stem for m in MODELS):
        single, integer = counts[model, "fp32"], counts[model, "int8"]
        assert single["macs"] > 1.5 * single["instructions"], model
        assert integer["instructions"] < single["instructions"], model
        assert integer["code"] < 400_000, model


def test_families_add_up(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        kernels = sum(executed for _, _, executed in row["families"].values())
        assert 0 <= row["instructions"] - kernels < 10_000  # the driver calls kernels, little else


@pytest.mark.skipif(not shutil.which("llvm-mca-19"), reason="no llvm-mca-19")
def test_loops_are_near_the_estimate(rows: list[dict[str, Any]]) -> None:
    """The estimate knows no latencies, so llvm-mca takes at least as long, for a turn in 100."""
    loops = [loop for row in rows for loop in row["loops"]]
    assert loops and all(loop["estimate"] <= 1.02 * loop["cycles"] for loop in loops)
    assert max(loop["best"] / loop["cycles"] for loop in loops) > 0.9


def test_a_system_shows_the_cpu_that_is_emulated(tmp_path: Path) -> None:
    system = part("system").System(tmp_path)
    (tmp_path / "root/usr").mkdir(parents=True)
    told: dict[str, str] = {}
    for cpu in ("cortex-a72", "neoverse-n1"):
        *_, option, root, python = system.command(["qemu-aarch64", "-cpu", cpu])
        assert option == "-L" and python == f"{root}/usr/bin/python3.11"
        assert Path(root, "usr").samefile(tmp_path / "root/usr")
        told[cpu] = Path(root, "proc/cpuinfo").read_text()
    assert "0xd08" in told["cortex-a72"] and "asimddp" not in told["cortex-a72"]
    assert "0xd0c" in told["neoverse-n1"] and "asimddp" in told["neoverse-n1"]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    system = part("system")
    with pytest.raises(system.MissingError, match="no nosuchtool here"):
        system.work(["nosuchtool"], tmp_path)
    with pytest.raises(system.MissingError, match=r"cp .* fails"):
        system.work(["cp", "nothing", "nowhere"], tmp_path)


def test_channels_last_are_told() -> None:
    peer = part("peer")
    import numpy as np

    value = np.arange(24.0).reshape(1, 3, 2, 4)
    assert peer.placed(value, (1, 3, 2, 4)) is value
    assert (peer.placed(value, (1, 2, 4, 3)) == value.transpose(0, 2, 3, 1)).all()
    with pytest.raises(SystemExit, match="takes"):
        peer.placed(value, (1, 4, 2, 3))
