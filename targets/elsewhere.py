"""Bundles for other computers than this one: their target, which knows what runs them here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.runtime.cpu import check_machine, is_native
from graphopt.runtime.files import check_files
from graphopt.runtime.manifest import Manifest
from graphopt.runtime.tensors import check_array, check_names, dtype_of
from graphopt.targets.base import Estimate, Target, parse_target


def target_of(manifest: Manifest) -> Target | None:
    """The target of a bundle that this computer can't run; None: it can, or lacks but a feature.

    Raises:
        InputError: the manifest names no target that there is.
        UnsupportedError: it names none.
    """
    if is_native(manifest.arch):
        return None
    if not manifest.target:
        check_machine(manifest.arch, ())
    return parse_target(manifest.target)


def run(
    folder: Path, manifest: Manifest, feeds: Sequence[Mapping[str, Any]], threads: int | None
) -> list[dict[str, Any]]:
    """The outputs of such a bundle for the first of some inputs, at least one.

    Raises:
        InputError: the bundle is damaged, or an input doesn't suit it.
        UnsupportedError: nothing here runs it; the message says what would.
        MismatchError: it crashes.
        LimitError: it takes too long.
    """
    runner = _asked(manifest).runner()
    given = [suited(manifest, feed) for feed in feeds]
    check_files(folder, manifest, verify=True)
    return runner.run(folder, given, threads or 1)


def examine(folder: Path, manifest: Manifest) -> str:
    """What reading the code of such a bundle proves, as a sentence; empty: nothing is asked.

    Raises:
        InputError: the bundle is damaged.
        MismatchError: its CPU lacks an instruction of it.
        UnsupportedError: nothing here reads it; the message says what would.
    """
    check_files(folder, manifest, verify=True)
    return _asked(manifest).examine(folder)


def estimate(folder: Path, manifest: Manifest, feed: Mapping[str, Any]) -> Estimate:
    """What a run of such a bundle takes on its CPU.

    Raises:
        InputError: the bundle is damaged, or an input doesn't suit it.
        UnsupportedError: nothing here can tell; the message says what would.
    """
    target = _asked(manifest)
    check_files(folder, manifest, verify=True)
    target.runner()  # says so where there is none
    found = target.estimate(folder, suited(manifest, feed))
    assert found
    return found


def _asked(manifest: Manifest) -> Target:
    target = target_of(manifest)
    assert target
    return target


def suited(manifest: Manifest, feed: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by name, of exactly their dtypes and shapes.

    Raises:
        InputError: one isn't.
    """
    check_names(manifest.inputs, feed)
    return {s.name: check_array(s, dtype_of(s.dtype or "float32"), feed[s.name])
            for s in manifest.inputs}  # fmt: skip
