"""Times of kernels on this computer, kept in the user's cache: what profiles have found out.

A kernel's key is the hash of all that decides its machine code, so a row is true for as long as the
CPU is the same. The least time is kept: other work only makes a kernel slower, and where two
kernels are weighed against each other, one of them mustn't have been timed on a busier machine.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from graphopt.analysis.work import Work
from graphopt.runtime.manifest import Layer
from graphopt.targets.cache import cache_folder
from graphopt.targets.roofline.host import this_host

VERSION = 5  # of the table, and of what its numbers mean
MOST = 50_000  # rows; the oldest go


@dataclass(frozen=True)
class Row:
    """One kernel: its work and the least time of it, in microseconds.

    `ops` are the kinds of its operations, with spaces between them.
    """

    key: str
    family: str
    ops: str
    unit: str
    flops: int
    data_bytes: int
    weight_bytes: int
    us: float

    @property
    def work(self) -> Work:
        """What it computes and moves."""
        return Work(self.flops, self.data_bytes, self.weight_bytes, self.unit)


def row_of(layer: Layer, us: float) -> Row:
    """What to keep of a layer that took some microseconds."""
    work = (layer.flops, layer.data_bytes, layer.weight_bytes)
    return Row(layer.key, layer.family, " ".join(layer.ops), layer.unit, *work, us)


_COLUMNS = ", ".join(f.name for f in fields(Row))
_CREATE = f"""create table if not exists kernels(cpu text, threads integer, at integer, {_COLUMNS},
primary key (cpu, threads, key))"""
_ADD = f"""insert into kernels values ({", ".join("?" * (len(fields(Row)) + 3))})
on conflict do update set us = min(us, excluded.us), at = excluded.at"""
_PRUNE = f"""delete from kernels where rowid in
(select rowid from kernels order by at desc limit -1 offset {MOST})"""


class Database:
    """The rows of one CPU and number of threads. A cache that can't be used is an empty one."""

    def __init__(self, threads: int, path: Path | None = None) -> None:
        """Use the file at `path`; None: the user's own."""
        self.threads = threads
        self.path = path or cache_folder("costs") / f"kernels-{VERSION}.sqlite"
        self._cpu = hashlib.sha256(this_host().text.encode()).hexdigest()[:24]

    def rows(self) -> dict[str, Row]:
        """Every kernel that was timed, by its key."""
        if not self.path.is_file():
            return {}
        with suppress(sqlite3.Error), self._open() as connection:
            query = f"select {_COLUMNS} from kernels where cpu = ? and threads = ?"
            found = connection.execute(query, (self._cpu, self.threads))
            return {row.key: row for row in (Row(*values) for values in found)}
        return {}

    def add(self, rows: Iterable[Row]) -> None:
        """Keep times; a damaged file is begun anew."""
        values = [(self._cpu, self.threads, *astuple(row)) for row in rows]
        try:
            self._add(values)
        except sqlite3.DatabaseError as why:
            if isinstance(why, sqlite3.OperationalError):  # locked, read-only, no space
                return
            with suppress(OSError, sqlite3.Error):
                self.path.unlink()
                self._add(values)
        except OSError:
            return

    def _add(self, values: Sequence[tuple[object, ...]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as connection, connection:
            connection.execute(_CREATE)
            (last,) = connection.execute("select coalesce(max(at), 0) from kernels").fetchone()
            rows = [(cpu, threads, last + 1, *rest) for cpu, threads, *rest in values]
            connection.executemany(_ADD, rows)
            connection.execute(_PRUNE)

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=2.0)) as connection:
            yield connection
