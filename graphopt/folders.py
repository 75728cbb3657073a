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
