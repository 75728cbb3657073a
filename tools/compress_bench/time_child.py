"""Time two bundles in turns, so that what disturbs one disturbs both; prints JSON.

    python -P tools/compress_bench/time_child.py BEFORE AFTER SAMPLE.npz THREADS SECONDS

The sample is one run's inputs.
"""

from __future__ import annotations

import json
import statistics
import sys

import numpy as np

import graphopt
from graphopt.measure import interleave


def main() -> None:
    """Median and minimum of both in microseconds."""
    before, after, sample, threads, seconds = sys.argv[1:]
    with np.load(sample) as file:
        feed = {name: file[name] for name in file.files}
    with (
        graphopt.Session(before, threads=int(threads)) as one,
        graphopt.Session(after, threads=int(threads)) as two,
    ):
        runs = {"before": lambda: one.run(feed), "after": lambda: two.run(feed)}
        found = interleave(runs, float(seconds))
    told = {name: [1e6 * statistics.median(s), 1e6 * min(s)] for name, s in found.items()}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
