"""The options that several commands share, and the reading of their text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.errors import InputError

if TYPE_CHECKING:
    from graphopt.pipeline import Pass
    from graphopt.targets.base import Target as TargetSpec

Model = Annotated[Path, typer.Argument(show_default=False, help="ONNX, or IR text (.gir).")]
Bundle = Annotated[Path, typer.Argument(show_default=False, help="A folder made by `optimize`.")]
Either = Annotated[
    Path, typer.Argument(metavar="BUNDLE|MODEL", show_default=False, help="A bundle, or a model.")
]
Target = Annotated[
    str, typer.Option(metavar="NAME[:CPU]", show_default=False, help="See `graphopt targets`.")
]
Passes = Annotated[
    str,
    typer.Option(metavar="TEXT", help="The pipeline, as in 'fold,fuse{option=value}'; `default` "
                 "stands for the exact passes, `default,int8` quantizes. See `graphopt passes`."),
]  # fmt: skip
Data = Annotated[
    str | None,
    typer.Option(metavar="FILE.npz|DIR", help="Samples to check on, by input name with a leading "
                 "sample axis. Default: seeded random ones."),
]  # fmt: skip
Shapes = Annotated[
    list[str] | None,
    typer.Option("--input-shape", metavar="NAME=1x3x224x224", help="Fix an input's shape; may be "
                 "repeated. Default: a batch of 1."),
]  # fmt: skip
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Default: all CPUs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, nothing else.")]


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]] | None:
    """Read `NAME=1x3x224x224` texts (`NAME=` is a scalar); None where there are none.

    Raises:
        InputError: one that isn't of this form, or a name given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or ():
        name, equals, dims = text.rpartition("=")
        if not (equals and name and re.fullmatch(r"(\d{1,18}(x\d{1,18})*)?", dims)):
            raise InputError(f"--input-shape {text!r} is not of the form NAME=1x3x224x224")
        if name in shapes:
            raise InputError(f"--input-shape gives {name!r} twice")
        shapes[name] = tuple(map(int, dims.split("x"))) if dims else ()
    return shapes or None


def read_passes(text: str, target: TargetSpec | None = None) -> tuple[Pass, ...]:
    """Read pipeline text; names of pipelines stand for the target's own, or the standard ones.

    Raises:
        ParseError: with the column and a caret.
    """
    from graphopt.passes import PIPELINES
    from graphopt.pipeline import parse_pipeline

    return parse_pipeline(text, target.pipelines if target else PIPELINES)


def existing(path: Path) -> Path:
    """A path of something that is there.

    Raises:
        InputError: there is nothing.
    """
    try:
        found = path.exists()
    except OSError as why:  # a name too long, a folder that may not be entered
        raise InputError(f"{path}: {why.strerror}") from why
    if not found:
        raise InputError(f"{path}: there is no such file")
    return path


def model_file(path: Path) -> Path:
    """A path of an existing file.

    Raises:
        InputError: there is none, or it is a folder.
    """
    if existing(path).is_dir():
        raise InputError(f"{path} is a folder, not a model")
    return path


def writable(path: Path) -> Path:
    """A path whose folder exists (or can be made), checked before the long work begins.

    Raises:
        InputError: it can't be written.
    """
    import os

    from graphopt.folders import resolved

    parent = resolved(path).parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"{path} can't be written: {parent} is not a folder")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{path} can't be written: no permission in {parent}")
    return path
