"""Run one of our pipelines for a target, in a process of its own; prints JSON.

    python -P tools/compress_bench/child.py '{"model": ..., "data": ..., "passes": ..., "out": ...}'

writes a bundle. *Seconds* are those of the passes: reading, compiling and writing don't count.
"""

from __future__ import annotations

import json
import sys

from quant_bench.child import peak_mb, version

import graphopt


def main() -> None:
    """Do the job, print its figures and what the passes noted."""
    job = json.loads(sys.argv[1])
    result = graphopt.optimize(
        job["model"], job["target"], job["passes"], data=job["data"], threads=job["threads"],
        check=False,
    )  # fmt: skip
    result.save(job["out"])
    told = {
        "seconds": result.report.seconds["passes"], "peak_mb": peak_mb(),
        "version": version("graphopt"),
        "notes": [note for record in result.report.passes for note in record.notes],
    }  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main()
