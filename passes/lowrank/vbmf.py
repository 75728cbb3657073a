"""How many components of a matrix stand out of noise: the analytic solution of variational Bayes.

Nakajima, Sugiyama, Babacan and Tomioka 2013, "Global analytic solution of fully-observed
variational Bayesian matrix factorization", JMLR 14, theorems 2 and 3 (empirical Bayes), the
variance of the noise being the one of least free energy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.types import Array
from graphopt.lazy import Lazy

_optimize: Any = Lazy("scipy.optimize")
TINY = 1e-14  # of the largest power: what is below is 0
REACH = 2.5129  # tau of the threshold, in units of sqrt(alpha), equation 31


def vbmf_rank(powers: Array, rows: int, columns: int) -> int:
    """The number of components that are kept.

    Args:
        powers: squared singular values, float64 [min(rows, columns)], the largest first.
        rows: of the matrix.
        columns: of it.
    """
    short, long = sorted((rows, columns))
    x, alpha = np.asarray(powers, np.float64)[:short], short / long
    x = x[x > TINY * x.max(initial=0)]
    if not x.size:
        return 0
    reach = REACH * np.sqrt(alpha)
    edge = (1 + reach) * (1 + alpha / reach)
    most = min(int(np.ceil(short / (1 + alpha))), len(x)) - 1
    high = x.sum() / (short * long)
    tail = x[most:] if most < len(x) else x[-1:]
    low = max(tail[0] / (long * edge), tail.mean() / long, 1e-12 * high)
    if not low < high:
        return int(np.sum(x > long * high * edge))
    found: Any = _optimize.minimize_scalar(
        _energy, bounds=(np.log(low), np.log(high)), args=(x / long, short, alpha, edge),
        method="bounded",
    )  # fmt: skip
    return int(np.sum(x > long * np.exp(float(found.x)) * edge))


def _energy(log_noise: float, x: Array, short: int, alpha: float, edge: float) -> float:
    """The free energy as a function of the noise's variance, but for constants (equation 34)."""
    scaled = np.maximum(x / np.exp(log_noise), 1e-300)
    kept, rest = scaled[scaled > edge], scaled[scaled <= edge]
    tau = (kept - (1 + alpha) + np.sqrt((kept - (1 + alpha)) ** 2 - 4 * alpha)) / 2
    total = np.sum(rest - np.log(rest)) + np.sum(kept - np.log(kept))
    total += np.sum(np.log(tau + 1) + alpha * np.log(tau / alpha + 1) - tau)
    missing = short - len(x)  # components of power 0
    return float(total + missing * log_noise)
