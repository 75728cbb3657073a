"""A model opened in ONNX Runtime, or in onnx.reference where that can't read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError, InputError, LimitError
from graphopt.limits import gigabytes, max_memory
from graphopt.onnx.ort import first_line, open_session, run_session

_NO_MEMORY = ("bad alloc", "bad_alloc", "Failed to allocate memory", "Unable to allocate")


class Engine:
    """Runs one model in this process. `name` says what runs it."""

    def __init__(self, source: bytes | Path, optimize: bool, threads: int | None) -> None:
        """Open a serialised model or its file.

        Raises:
            InputError: nothing here can run it.
            LimitError: there isn't memory enough.
        """
        self._session = self._evaluator = None
        try:
            self._session = open_session(source, optimize=optimize, threads=threads)
            self.name = "onnxruntime"
        except Exception as why:  # its classes derive from Exception alone
            if _is_memory(why):
                raise failure(why) from why
            self._evaluator = _evaluator(source, why)
            self.name = "onnx.reference"

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs in order (sequences are lists).

        Raises:
            InputError: it can't be run on these inputs.
            LimitError: there isn't memory enough.
        """
        try:
            if self._evaluator is None:
                return run_session(self._session, feeds)
            return list(self._evaluator.run(None, dict(feeds)))
        except Exception as why:
            raise failure(why) from why


def _evaluator(source: bytes | Path, why: Exception) -> Any:
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        if isinstance(source, Path):
            whole = onnx.load(str(source))  # pyright: ignore[reportUnknownMemberType]
        else:
            whole = onnx.ModelProto.FromString(source)
        return ReferenceEvaluator(whole)
    except Exception as second:
        raise InputError(
            f"ONNX Runtime can't load it ({first_line(why)}), "
            f"nor can onnx.reference ({first_line(second)})"
        ) from why


def _is_memory(why: BaseException) -> bool:
    return isinstance(why, MemoryError) or any(text in str(why) for text in _NO_MEMORY)


def failure(why: BaseException) -> GraphoptError:
    """The error for a model or input that can't be run."""
    if isinstance(why, GraphoptError):
        return why
    if _is_memory(why):
        limit = gigabytes(max_memory())
        return LimitError(f"running it needs more memory than the limit of {limit} (--max-memory)")
    return InputError(f"ONNX Runtime can't run it: {first_line(why)}")
