"""What `--debug DIR` and `--dump-dir DIR` keep of a run of the passes.

000_input.gir 003_fuse.gir ...   the IR as read, and after each pass that changed it
weights.bin                      the constants of all of them
timing.txt remarks.txt           seconds a pass; what each rule did, or declined to do and why
errors.txt                       how far the outputs are from the reference after each pass
reproducer.gir reproducer.bin    the IR before a pass that failed
program.txt                      (--debug) the plan: kernels, buffers, memory
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.errors import InputError

if TYPE_CHECKING:
    from graphopt.hooks import PassError
    from graphopt.pipeline import Record


def timing_text(seconds: Iterable[tuple[str, float]]) -> str:
    """A table of seconds and shares, one line a pass."""
    rows = list(seconds)
    total = sum(s for _, s in rows)
    lines = [f"{s:9.4f} s {100 * s / (total or 1):5.1f} %  {text}" for text, s in rows]
    return "\n".join([*lines, f"{total:9.4f} s 100.0 %  all passes"]) + "\n"


def remarks_text(records: Iterable[Record]) -> str:
    """Every remark of every pass."""
    lines: list[str] = []
    for r in records:
        lines.append(f"pass {r.number}: {r.text} ({'changed' if r.changed else 'unchanged'})")
        lines += [f"  {remark}" for remark in r.remarks]
    return "\n".join(lines) + "\n"


def errors_text(errors: Iterable[PassError]) -> str:
    """The worst output after each pass that changed something."""
    lines = ["largest error, of an output's range, against the reference"]
    for e in errors:
        if e.worst:
            state = "" if e.worst.ok else "lossy " if e.lossy else "TOO MUCH "
            where = f"{e.worst.relative:9.1e}  {state}"
            lines.append(f"{where}{e.number:3} {e.text}  (output {e.worst.name!r})")
    return "\n".join(lines) + "\n"


def keep(
    folder: Path,
    records: Sequence[Record],
    seconds: Sequence[tuple[str, float]],
    errors: Sequence[PassError],
) -> None:
    """Write the tables.

    Raises:
        InputError: the folder can't be written.
    """
    texts = {"remarks.txt": remarks_text(records), "timing.txt": timing_text(seconds)}
    if errors:
        texts["errors.txt"] = errors_text(errors)
    try:
        for name, text in texts.items():
            (folder / name).write_text(text, "utf-8")
    except OSError as why:
        raise InputError(f"{folder}: can't write there: {why.strerror}") from why
