"""The process in which `isolated` runs models: frames of requests in, frames of answers out.

A request is (numbers of models to forget, method of Server, arguments); an answer is ("ok", value)
or ("error", class of graphopt.errors, text). One process serves one master, never a network; its
memory is limited before it sees the first model.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from graphopt.limits import limit_memory
from graphopt.onnx import frames
from graphopt.onnx.engine import Engine, failure
from graphopt.onnx.ort import load_onnxruntime
from graphopt.runtime import Session


class Server:
    """The models that are open, by the number that their owner gave them."""

    def __init__(self) -> None:
        """None yet."""
        self.engines: dict[int, Engine] = {}

    def open(self, number: int, source: bytes | Path, threads: int | None) -> str:
        """Open a model, its optimizer off; gives the engine's name."""
        self.engines[number] = Engine(source, False, threads)
        return self.engines[number].name

    def run(self, number: int, feeds: Mapping[str, Any]) -> list[Any]:
        """Run an open model."""
        return self.engines[number].run(feeds)

    def bundle(
        self, folder: Path, feeds: Sequence[Mapping[str, Any]], threads: int
    ) -> list[dict[str, Any]]:
        """Run a compiled bundle, whose kernels may crash like any native code."""
        with Session(folder, threads=threads) as session:
            return [session.run(f) for f in feeds]

    def close(self, numbers: Iterable[int]) -> None:
        """Forget models."""
        for number in numbers:
            self.engines.pop(number, None)

    def evaluate(self, model: bytes, feeds: Mapping[str, Any]) -> list[Any]:
        """Run a small model, which may come again."""
        return _small(model).run(feeds)


@lru_cache(maxsize=64)
def _small(model: bytes) -> Engine:
    return Engine(model, False, 1)


def watch(parent: int) -> None:
    """End when the master is gone, even in the middle of a run."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the input ends."""
    server = Server()
    while True:
        try:
            closed, method, args = frames.read(requests)
        except EOFError:
            return
        server.close(closed)
        try:
            answer: tuple[Any, ...] = ("ok", getattr(server, method)(*args))
        except Exception as why:
            found = failure(why)
            answer = ("error", type(found).__name__, Exception.__str__(found))
        frames.write(answers, answer)


def main() -> None:
    """Serve the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the master gets it too, and ends this process
    limit_memory(int(sys.argv[1]))
    threading.Thread(target=watch, args=(int(sys.argv[2]),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    load_onnxruntime()  # while the master still prepares its first request
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
