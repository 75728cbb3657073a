"""The command line: `graphopt COMMAND ...`. One file a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own); give the exit code."""
    from graphopt.cli.app import run

    return run(sys.argv[1:] if args is None else list(args))
