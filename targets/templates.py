"""Templates of text (C sources, pages), whose compiled form is kept in the user's cache.

jinja2 makes Python code of a template, which takes 10 ms a template: longer than filling it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jinja2
from jinja2.bccache import Bucket

from graphopt.targets.cache import cache_folder, keep_hashed, kept_hashed


class Kept(jinja2.BytecodeCache):
    """Compiled templates in a folder, by all that they are made of."""

    def __init__(self, folder: Path, options: str) -> None:
        """`options`: of the environment they are compiled for."""
        self._folder, self._options = folder, options

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        """The file's name; the bucket's checksum, which tells other text, is inside."""
        of = f"{jinja2.__version__}\n{self._options}\n{name}\n{filename}"
        return hashlib.sha256(of.encode()).hexdigest()[:32]

    def load_bytecode(self, bucket: Bucket) -> None:
        """Read a template; nothing where there is none."""
        found = kept_hashed(self._folder / bucket.key)
        if found is not None:
            bucket.bytecode_from_string(found)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Write a template, if that can be."""
        keep_hashed(self._folder / bucket.key, bucket.bytecode_to_string())


def environment(package: str, *, autoescape: bool, newline: bool = False) -> jinja2.Environment:
    """Templates beside the modules of a package.

    Args:
        package: its name.
        autoescape: whether what is filled in is made safe for HTML.
        newline: whether a text ends as its template does.
    """
    options: dict[str, Any] = {
        "autoescape": autoescape, "keep_trailing_newline": newline,
        "trim_blocks": True, "lstrip_blocks": True,
    }  # fmt: skip
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, ""), undefined=jinja2.StrictUndefined,
        bytecode_cache=Kept(cache_folder("templates"), str(options)), **options,
    )  # fmt: skip
