"""Numbers as people read them."""

from __future__ import annotations


def count(n: float) -> str:
    """`301 M`, `1.2 k`, `7`."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(n) >= factor:
            return f"{three(n / factor)} {unit}"
    return f"{n:g}"


def at_least(text: str, bound: bool) -> str:
    """Mark a number that is only a lower bound."""
    return f">= {text}" if bound else text


def size(n: float) -> str:
    """Bytes, in powers of 1000: `14.2 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(n) >= factor:
            return f"{three(n / factor)} {unit}"
    return f"{n:g} B"


def milliseconds(ms: float) -> str:
    """`74.0 ms`, `12.5 us`."""
    return f"{three(ms)} ms" if ms >= 1 else f"{three(1000 * ms)} us"


def three(x: float) -> str:
    """Three digits at least, no exponent: `1.23`, `12.3`, `1234`."""
    digits = 2 if abs(x) < 10 else 1 if abs(x) < 100 else 0
    return f"{x:.{digits}f}"
