"""The files of a bundle, held against its manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from graphopt.errors import InputError
from graphopt.runtime.manifest import Manifest


def check_files(folder: Path, manifest: Manifest, verify: bool) -> None:
    """Raise InputError where a file is missing or of another size; `verify`: of another hash."""
    for name, info in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{folder} is damaged: {name} is missing")
        if path.stat().st_size != info.bytes or (verify and _sha256(path) != info.sha256):
            raise InputError(f"{folder} is damaged: {name} is not the file it was made with")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
