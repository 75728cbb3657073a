"""Every way a command can end: an exit code, and one sentence on stderr where it isn't 0."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from graphopt.cli.leave import interrupted
from graphopt.errors import GraphoptError

TRACEBACK = "--traceback"
BUG = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 128 + 2  # as a shell reports SIGINT
PIPE_CLOSED = 128 + 13  # SIGPIPE
NO_MEMORY = 3

# A write that fails for these reasons doesn't say of which file.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

# The root of typer's usage errors: click's own class, or typer's copy of it in newer versions.
_USAGE = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def guarded(command: Callable[[list[str]], object], args: Sequence[str]) -> int:
    """Run a command; turn what it raises into a sentence and an exit code."""
    given = [a for a in args if a != TRACEBACK]
    if not given:
        command(["--help"])
        return GraphoptError.exit_code
    try:
        code = command(given)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this exit code, and says nothing
            raise KeyboardInterrupt
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # Whoever read our output has gone; python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        if TRACEBACK in args:
            traceback.print_exc()
        code, text = sentence(error, given)
        print(f"graphopt: {text}", file=sys.stderr)
        return code


def sentence(error: BaseException, args: Sequence[str]) -> tuple[int, str]:
    """The exit code and what to say."""
    if isinstance(error, GraphoptError):
        return error.exit_code, "; ".join([str(error), *notes(error)])
    if isinstance(error, _USAGE):
        return GraphoptError.exit_code, _usage(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return interrupted()
    if isinstance(error, MemoryError):
        return NO_MEMORY, "out of memory: the model needs more than this machine (or its limit) has"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return GraphoptError.exit_code, f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in _FULL:
        return (
            GraphoptError.exit_code,
            f"can't write: {error.strerror}; make room, or write elsewhere",
        )
    return BUG, _bug(error, args)


def notes(error: BaseException) -> list[str]:
    """What was added to an exception on its way (`add_note`)."""
    return list(getattr(error, "__notes__", ()))


def _usage(error: BaseException) -> str:
    """Click's own message, on one line, and where to look."""
    text = " ".join(str(getattr(error, "format_message", lambda: str(error))()).split())
    path = getattr(getattr(error, "ctx", None), "command_path", "graphopt")
    return f"{text.rstrip('.')} (see `{path} --help`)"


def _bug(error: BaseException, args: Sequence[str]) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    # Notes say how to replay it (a pass that failed says more than the whole command).
    again = notes(error) or [f"replay it with `graphopt {shlex.join(args)} {TRACEBACK}`"]
    return f"this is a bug in graphopt: {what}{place}; {'; '.join(again)}"
