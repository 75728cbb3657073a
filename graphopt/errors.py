"""Every error graphopt raises on purpose: one class per exit code, one sentence per error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.api import Result

LONGEST = 1000  # characters of a message; names in hostile models have no bounds


class GraphoptError(Exception):
    """Base of every error that graphopt raises on purpose; `exit_code` is the process's."""

    exit_code = 2

    def __str__(self) -> str:
        """One line, whatever names and messages of others it quotes."""
        return one_line(super().__str__())


class InputError(GraphoptError):
    """The model, data file, option or path given by the user can't be used."""


class ParseError(InputError):
    """Text (IR, pipeline, target) that does not parse; shows line:column and a caret."""

    def __str__(self) -> str:
        """The sentence, the line of the text, and the caret."""
        return "\n".join(map(one_line, Exception.__str__(self).split("\n")))


class VerifyError(GraphoptError):
    """The IR breaks one of its own invariants."""


class MismatchError(GraphoptError):
    """The optimized model's numbers differ from the original's beyond the stated tolerance."""

    exit_code = 1


class UnsupportedError(GraphoptError):
    """Well-formed input that asks for something graphopt, the target or the machine can't do."""

    exit_code = 3


class LimitError(GraphoptError):
    """A limit stated by the user can't be met; `best` is the best result found, if there is one."""

    exit_code = 4
    best: Result | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Without `best`, whose bundle lies in a folder of this process: for other processes."""
        state = {k: v for k, v in self.__dict__.items() if k != "best"}
        return type(self), self.args, state


def one_line(text: str) -> str:
    """Text with line breaks made spaces, what can't be printed escaped, and a long middle cut."""
    if not text.isprintable():
        spaced = "".join(" " if c in "\r\n\t" else c for c in text)
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in spaced)
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


def want(what: str, good: bool, wanted: str, given: object) -> None:
    """Raise InputError unless an argument is what it should be."""
    if not good:
        raise InputError(f"{what} is to be {wanted}, not {given!r}")


def path_from(what: str, given: Any) -> Path:
    """The path that an argument is.

    Raises:
        InputError: it is none.
    """
    try:
        text = str(Path(given))
    except TypeError:  # not text, nor what stands for a path
        text = "\0"
    want(what, "\0" not in text, "a path", given)
    return Path(text)
