"""Folders that are written to: made when they are needed, looked at before that."""

from __future__ import annotations

import os
from pathlib import Path

from graphopt.errors import InputError


def made(folder: Path) -> Path:
    """Make a folder, if it isn't there; give it.

    Raises:
        InputError: it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise InputError(f"{folder}: can't make the folder: {why.strerror}") from why
    return folder


def makeable(folder: Path) -> Path:
    """A folder that is there or can be made, as far as one can tell without making it; give it.

    Raises:
        InputError: it can't.
    """
    try:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    except OSError as why:  # a name too long, a folder that may not be entered
        raise InputError(f"{folder}: can't make the folder: {why.strerror}") from why
    if not there.is_dir():
        raise InputError(f"{folder}: can't make the folder: {there} is none")
    if not os.access(there, os.W_OK):
        raise InputError(f"{folder}: can't make the folder: no permission in {there}")
    return folder


def resolved(path: Path) -> Path:
    """A path without links, whose last parts needn't be there.

    Raises:
        InputError: its links lead nowhere.
    """
    try:
        return path.resolve()
    except (OSError, RuntimeError) as why:  # Python 3.11 raises RuntimeError for a loop
        raise InputError(f"{path} can't be written: its links go round in a circle") from why


def replace(new: Path, target: Path, aside: Path) -> None:
    """Give a folder the place of another, all of it or nothing; what was there goes to `aside`.

    All three are on one file system; nothing needs to be at the target.
    """
    if not target.exists():
        new.rename(target)
    elif _is_in(target):
        _fill(new, target, aside)
    else:
        _exchange(new, target, aside)


def _is_in(folder: Path) -> bool:
    """Whether the process is in a folder, or below it."""
    try:
        return Path.cwd().is_relative_to(folder)
    except OSError:  # it is in one that is no more
        return False


def _exchange(new: Path, target: Path, aside: Path) -> None:
    target.rename(aside)
    try:
        new.rename(target)
    except BaseException:  # an interrupt, too: what is left aside is removed
        if not target.exists():
            aside.rename(target)
        raise


def _fill(new: Path, target: Path, aside: Path) -> None:
    """For the folder that one is in, as a shell may be, which would be left in the old one."""
    aside.mkdir()
    old, put = list(target.iterdir()), list(new.iterdir())
    try:
        for path in old:
            path.rename(aside / path.name)
        for path in put:
            path.rename(target / path.name)
    except BaseException:
        for path in put:
            if not path.exists():
                (target / path.name).rename(path)
        for path in list(aside.iterdir()):
            path.rename(target / path.name)
        raise
