"""`--max-memory` and `--max-seconds`, which every command takes, before or after its name."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from graphopt.errors import InputError
from graphopt.limits import MEMORY, SECONDS, max_memory, max_seconds

OPTIONS = {"--max-memory": MEMORY, "--max-seconds": SECONDS}


@contextmanager
def stated(args: Sequence[str]) -> Generator[list[str]]:
    """Take the limits out of a command line, and hold to them as long as the `with` lasts.

    Raises:
        InputError: a limit is no positive number.
    """
    found, rest = _split(args)
    before = {name: os.environ.get(name) for name in found}
    os.environ.update(found)
    try:
        max_memory()
        max_seconds()
        yield rest
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _split(args: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    found, rest = dict[str, str](), list[str]()
    words = iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in OPTIONS:
            rest.append(word)
            continue
        given = value if equals else next(words, "")
        if not given:
            raise InputError(f"{option} wants a number")
        found[OPTIONS[option]] = given
    return found, rest
