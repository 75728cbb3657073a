# pyright: basic
# TVM ships no types.
"""The compiling process: JSON lines in, object files out.

    {"key": ..., "symbol": ..., "text": <IR of a region>, "machine": <JSON or name>, "out": <path>,
     "knobs": <of the template, or empty>}
 -> {"key": ..., "ok": true, "error": "", "unwritable": "", "family": "conv", "seconds": 0.1}

    {"key": ..., "text": ..., "machine": ..., "seconds": <to spend>, "skip": [<knobs>, ...]}
 -> {"trial": <knobs>, "us": null or 12.3} ... {"done": true}     (see `trial`)

One request at a time. An LLVM failure that aborts the process loses that one kernel; the parent
(`compile`) starts another worker.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import graphopt.ops
from graphopt.errors import GraphoptError
from graphopt.ir.parser import parse
from graphopt.targets import machine as machines
from graphopt.targets.tvm import build

assert graphopt.ops  # importing it registers the kinds


def read_machine(given: str) -> machines.Machine:
    """A machine given as JSON, or by name."""
    if given.startswith("{"):
        return machines.Machine.from_json(given)
    return machines.load(given)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Compile one request; every failure is an answer, not an exception."""
    start, family, full = time.perf_counter(), "", ""
    try:
        graph = parse(request["text"], f"<kernel {request['symbol']}>").main
        family = build.graph_family(graph)
        machine = read_machine(request["machine"])
        func = build.primfunc(graph, machine, request["symbol"], request.get("knobs", ""))
        build.compile_object({request["symbol"]: func}, machine, Path(request["out"]))
        error = ""
    except GraphoptError as why:
        error = str(why)
    except OSError as why:  # nothing is wrong with the kernel
        error = full = why.strerror or str(why)
    except Exception as why:  # whatever TVM raises
        trace = os.environ.get("GRAPHOPT_TRACE")
        error = traceback.format_exc() if trace else brief(why)
    seconds = time.perf_counter() - start
    return {"key": request["key"], "ok": not error, "error": error, "unwritable": full,
            "family": family, "seconds": round(seconds, 4)}  # fmt: skip


def answer_to(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One answer to a kernel that is to be compiled; one a trial to one that is to be tuned."""
    if "seconds" not in request:
        yield serve(request)
        return
    from graphopt.targets.tvm import trial

    graph = parse(request["text"], f"<kernel {request['key']}>").main
    machine = read_machine(request["machine"])
    yield from trial.trials(graph, machine, request["seconds"], request["skip"])


def brief(why: Exception) -> str:
    """The part of a TVM error that says what went wrong: its last line."""
    lines = [line for line in str(why).strip().splitlines() if line.strip()]
    return f"{type(why).__name__}: {lines[-1].strip()[:500] if lines else ''}"


def main(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until the input ends."""
    doomed = os.environ.get("GRAPHOPT_TEST_ABORT")  # a key that dies as LLVM's fatal errors do
    for line in requests:
        if line.strip():
            if doomed and json.loads(line)["key"] == doomed:
                os.abort()
            for answer in answer_to(json.loads(line)):
                answers.write(json.dumps(answer) + "\n")
                answers.flush()


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "w")  # what TVM or LLVM prints must not mix with the answers
    os.dup2(2, 1)
    main(sys.stdin, channel)
