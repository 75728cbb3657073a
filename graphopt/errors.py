"""Every error graphopt raises on purpose: one class per exit code, one sentence per error."""

from __future__ import annotations


class GraphoptError(Exception):
    """Base of every error that graphopt raises on purpose; `exit_code` is the process's."""

    exit_code = 2


class InputError(GraphoptError):
    """The model, data file, option or path given by the user can't be used."""


class ParseError(InputError):
    """Text (IR, pipeline, target) that does not parse; shows line:column and a caret."""


class VerifyError(GraphoptError):
    """The IR breaks one of its own invariants."""


class MismatchError(GraphoptError):
    """The optimized model's numbers differ from the original's beyond the stated tolerance."""

    exit_code = 1


class UnsupportedError(GraphoptError):
    """Well-formed input that asks for something graphopt, the target or the machine can't do."""

    exit_code = 3


class LimitError(GraphoptError):
    """A limit stated by the user can't be met."""

    exit_code = 4
