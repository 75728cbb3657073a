# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""The process that is let loose on mutated models: JSON lines in, JSON lines out.

    {"seed": 7, "stage": "opt"} or {"file": "x/model.onnx", ...} or {"model": "conv", ...}
 -> {"result": "refused", "code": 2, "text": "...", "what": "...", "seconds": 0.1}

It works under a limit on its address space, in a folder of its own that must be empty afterwards.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import graphopt.api
from graphopt.cli import main as cli
from graphopt.errors import GraphoptError
from graphopt.ir.verify import verify
from tests.fuzz import models
from tests.fuzz.mutate import mutate

OUT_OF_MEMORY = "out of memory: the model needs"  # what the guard says of a MemoryError
BUG = 70
LONGEST = 2000  # characters of a sentence


def serve(request: dict[str, Any], home: Path) -> dict[str, Any]:
    """Try one input; the folder `home` is emptied before and after."""
    given, out, temporary = home / "in", home / "out", home / "tmp"
    for folder in (given, out, temporary):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    os.chdir(out)
    tempfile.tempdir = str(temporary)
    if "file" in request:
        shutil.copytree(Path(request["file"]).parent, given, dirs_exist_ok=True, symlinks=True)
        path, what, sort = given / "model.onnx", request["file"], "replay"
    elif "model" in request:
        path, what, sort = given / "model.onnx", request["model"], "whole"
        path.write_bytes(models.model(what).SerializeToString())
    else:
        case = mutate(request["seed"], given)
        path, what, sort = case.path, case.what, case.sort
    (home / "what").write_text(what)  # for when this process doesn't live to tell
    before = _listing(home)
    began = time.perf_counter()
    answer = _try(request["stage"], path, out, request.get("seed", 0))
    gc.collect()  # a result's temporary folder goes when the result does
    answer |= {"what": what, "sort": sort, "seconds": time.perf_counter() - began}
    return answer | _leftovers(answer, _listing(home) - before)


def _try(stage: str, path: Path, out: Path, seed: int) -> dict[str, Any]:
    if stage == "load":
        return _load(path)
    if stage == "opt":
        name = out / ("o.gir" if seed % 3 == 0 else "o.onnx")
        options = ["--check-each"] if seed % 4 == 0 else []
        return _command(["opt", str(path), "--passes", "default", "-o", str(name), *options])
    return _command(["optimize", str(path), "--target", "x86", "-o", str(out / "o.graphopt")])


def _load(path: Path) -> dict[str, Any]:
    try:
        module = graphopt.api.load(path)
        verify(module)
        module.to_text(elide=True)
    except GraphoptError as why:
        return _refused(why.exit_code, str(why), 0)
    except MemoryError:
        return {"result": "oom", "code": 3, "text": traceback.format_exc()}
    except Exception:
        return {"result": "traceback", "code": BUG, "text": traceback.format_exc()}
    return {"result": "ok", "code": 0, "text": ""}


def _command(args: list[str]) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli([*args, "--traceback"])
    except BaseException:
        return {"result": "traceback", "code": BUG, "text": traceback.format_exc()}
    if code == 0:
        return {"result": "ok", "code": 0, "text": ""}
    *trace, sentence = err.getvalue().split("graphopt: ", 1)
    if OUT_OF_MEMORY in sentence:
        return {"result": "oom", "code": code, "text": "".join(trace)[-3000:]}
    if code not in (1, 2, 3, 4):
        return {"result": "traceback", "code": code, "text": "".join(trace)[-3000:] + sentence}
    return _refused(code, sentence, len(out.getvalue()))


def _refused(code: int, text: str, printed: int) -> dict[str, Any]:
    """One sentence on stderr (a ParseError's caret takes two more lines), nothing on stdout."""
    lines = text.strip().splitlines()
    caret = len(lines) == 3 and lines[2].strip() == "^"
    good = (len(lines) == 1 or caret) and len(text) < LONGEST and not printed
    result = "refused" if good else "message"
    return {"result": result, "code": code, "text": text.strip()}


def _listing(home: Path) -> set[str]:
    return {str(p.relative_to(home)) for p in home.rglob("*")}


def _leftovers(answer: dict[str, Any], new: set[str]) -> dict[str, Any]:
    """A refused model leaves nothing, an optimized one nothing but the output."""
    left = {n for n in new if answer["code"] or not n.startswith("out/o")}
    if answer["result"] not in ("ok", "refused") or not left:
        return {}
    return {"result": "leftover", "text": f"{sorted(left)[:5]}: {answer['text']}"}


def limit_memory(megabytes: int) -> None:
    """Refuse this process, and those that it starts, more address space than that."""
    for what in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        resource.setrlimit(what, (megabytes << 20, megabytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Answer requests until the input ends."""
    home, megabytes = Path(sys.argv[1]), int(sys.argv[2])
    limit_memory(megabytes)
    channel = os.fdopen(os.dup(1), "w")  # what libraries print must not mix with the answers
    os.dup2(2, 1)
    for line in sys.stdin:
        channel.write(json.dumps(serve(json.loads(line), home)) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
