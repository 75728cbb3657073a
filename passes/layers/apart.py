"""Samples that passes leave alone, so that losses can be measured where nothing was fitted."""

from __future__ import annotations

LEAST = 64  # runs that are left: half to choose by, half to tell the result (graphopt.judge)


def fitted(runs: int, share: int) -> int:
    """How many runs a pass looks at where the user doesn't say.

    Args:
        runs: there are.
        share: one in so many is left, and at least LEAST; where that is over a quarter, none is.
    """
    left = max(runs // share, LEAST)
    return runs - left if runs >= 4 * left else runs
