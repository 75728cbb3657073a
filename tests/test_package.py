"""The wheel holds every module and data file, in a checkout with or without symlinks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = {".toml", ".j2", ".typed", ".json", ".c"}


def sources() -> set[str]:
    found: set[str] = set()
    for folder in ("graphopt", "passes", "targets"):
        base = ROOT / folder
        for path in base.rglob("*"):
            parts = path.relative_to(base).parts
            links = folder == "graphopt" and parts[0] in ("passes", "targets")
            if links or "__pycache__" in parts or path.suffix not in {".py", *DATA}:
                continue
            name = "/".join(parts)
            found.add(f"graphopt/{name}" if folder == "graphopt" else f"graphopt/{folder}/{name}")
    return found


@pytest.mark.parametrize("links", [True, False], ids=["symlinks", "no-symlinks"])
def test_the_wheel_is_whole(links: bool, tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    keep = ("graphopt", "passes", "targets", "pyproject.toml", "README.md", "LICENSE")
    copy.mkdir()
    for name in keep:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, copy / name)
    if not links:
        for name in ("passes", "targets"):
            (copy / "graphopt" / name).unlink()
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    assert sources() <= set(zipfile.ZipFile(wheel).namelist())
