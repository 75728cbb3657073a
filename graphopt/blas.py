"""One thread for numpy's and scipy's linear algebra, while passes do much of it.

Both bring an OpenBLAS of their own, whose threads wait for work without sleeping: those of the one
take the cores that the other computes on. `prune` of a small model took 110 s instead of 11 on a
busy machine of 2 cores. And how factorizations are split among threads changes their last bits, so
that results would depend on how many cores a machine has.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def one_thread() -> AbstractContextManager[Any]:
    """Until it is left, for the libraries that are loaded when it is entered."""
    from threadpoolctl import threadpool_limits  # looks at all libraries: not at every start

    return threadpool_limits(1, user_api="blas")
