"""What lossy passes cost: how far a model's answers move, over many samples, with an interval.

Of each output that is compared, a sample gets a score of its own, so that samples (not the many
pixels or time steps inside one) are what the interval counts. Scores that are all 0 or 1 are shares
and get Wilson's interval (Wilson 1927, equation 3); others the normal one, 1.96 standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.core import Graph, Value
from graphopt.ir.types import Array

Z = 1.96  # standard errors on either side of a 95 % interval
ONE_SIDED = 1.645  # standard errors above which one in twenty lies
How = Literal["classes", "sides", "direction", "values"]


@dataclass(frozen=True)
class Share:
    """A mean of per-sample scores, in percent, with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """Half of the interval."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        """As `99.2 % +- 0.3`."""
        return f"{self.mean:.1f} % +- {self.margin:.1f}"


def share(scores: Sequence[float]) -> Share:
    """The mean of scores with its interval; those of a difference lie between -1 and 1."""
    s = np.asarray(scores, np.float64)
    n, mean = len(s), float(s.mean())
    if np.isin(s, (0, 1)).all():
        middle = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z * math.sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
        return Share(100 * mean, 100 * (middle - half), 100 * (middle + half))
    error = float(s.std(ddof=1)) / math.sqrt(n) if n > 1 else 1.0
    half = max(Z * error, 3 / n if not s.any() else 0.0)  # the rule of three where none differ
    return Share(100 * mean, 100 * (mean - half), 100 * (mean + half))


def decibels(signal: float, noise: float) -> float:
    """The ratio of two powers in dB; infinite where one is 0."""
    return 10 * math.log10(signal / noise) if signal and noise else math.inf


@dataclass(frozen=True)
class Loss:
    """How far one output moved.

    `how` says what is compared of it: the largest along an axis (`classes`), the side of the middle
    of one number (`sides`: a share above 0.5 or a logit above 0), the cosine of vectors that were
    normalised (`direction`), else the values, as 1 - |error| / range. `kept` is the mean score.
    `before` and `after` are the shares of right answers where the data has labels, `drop` the
    points lost: of right answers (paired), else 100 - kept.
    """

    output: str
    data: str
    samples: int
    how: How
    sqnr_db: float
    kept: Share
    drop: Share
    before: float | None = None
    after: float | None = None

    @property
    def spare(self) -> float:
        """Points that the drop on as many other samples may be above this one, 19 times in 20.

        Both vary, so their difference has the square root of two times the standard error of one.
        """
        if self.kept.mean >= 100:
            return 0.0  # nothing differs
        return ONE_SIDED * math.sqrt(2) * self.drop.margin / Z

    def surely_within(self, limit: float) -> bool:
        """Whether the drop will be within a limit on other samples, too.

        Where there are too few samples to tell, half of the limit is left for chance.
        """
        return self.drop.mean + min(self.spare, limit / 2) <= limit

    def __str__(self) -> str:
        """Say it in one sentence."""
        what = {"classes": "the same answers", "sides": "the same answers",
                "direction": "cosine", "values": "nearness"}[self.how]  # fmt: skip
        text = (f"output {self.output!r}: {what} {self.kept} on {self.samples} {self.data} "
                f"samples, SQNR {self.sqnr_db:.1f} dB")  # fmt: skip
        if self.before is not None and self.after is not None:
            text += (f"; right {self.before:.1f} % -> {self.after:.1f} %, "
                     f"drop {self.drop.mean:.2f} +- {self.drop.margin:.2f} points")  # fmt: skip
        return text


@dataclass
class Meter:
    """Takes samples one run after another and keeps scores only.

    `hows`: what is compared of each float output, by name (see `hows`).
    """

    hows: Mapping[str, tuple[How, int]]
    data: str
    scores: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    right: dict[str, list[tuple[float, float]]] = field(
        default_factory=dict[str, list[tuple[float, float]]]
    )
    power: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    def add(
        self, want: Mapping[str, Any], got: Mapping[str, Any], labels: Array | None = None
    ) -> None:
        """Take in one run: the original's outputs, the model's, and the labels of its samples."""
        for name, (how, axis) in self.hows.items():
            w, g = np.asarray(want[name]), np.asarray(got[name])
            if w.shape != g.shape or not w.size:
                raise InputError(f"output {name!r} has the shape {g.shape} instead of {w.shape}")
            rows = _rows(w.astype(np.float64)), _rows(g.astype(np.float64))
            self._power(name, *rows)
            answers = [_answers(r, how, axis) for r in rows] if how in ("classes", "sides") else []
            if answers:
                self.scores.setdefault(name, []).extend(_equal(*answers))
            elif how == "direction":
                self.scores.setdefault(name, []).extend(_cosine(*rows))
            else:
                self.scores.setdefault(name, []).extend(_near(*rows))
            if labels is not None and answers and _fits(labels, answers[0]):
                pairs = zip(*(_equal(a, labels) for a in answers), strict=True)
                self.right.setdefault(name, []).extend(pairs)

    def _power(self, name: str, want: Array, got: Array) -> None:
        keep = np.isfinite(want) & np.isfinite(got)
        signal, noise = self.power.get(name, (0.0, 0.0))
        signal += float(np.sum(want[keep] ** 2))
        noise += float(np.sum((got - want)[keep] ** 2))
        self.power[name] = signal, noise

    def losses(self) -> tuple[Loss, ...]:
        """What all of it says, an output each."""
        return tuple(self._loss(name) for name in self.scores)

    def _loss(self, name: str) -> Loss:
        signal, noise = self.power[name]
        sqnr = decibels(signal, noise)
        kept, right = share(self.scores[name]), self.right.get(name)
        lost = Share(100 - kept.mean, 100 - kept.high, 100 - kept.low)
        found = Loss(name, self.data, len(self.scores[name]), self.hows[name][0], sqnr, kept, lost)
        if not right:
            return found
        before, after = (100 * float(np.mean([r[i] for r in right])) for i in (0, 1))
        drop = share([b - a for b, a in right])
        return replace(found, drop=drop, before=before, after=after)


def worst(losses: Sequence[Loss]) -> Loss | None:
    """The loss that a limit is held against: that of labelled outputs, else the largest."""
    labelled = [one for one in losses if one.before is not None]
    return max(labelled or losses, key=lambda one: one.drop.mean, default=None)


def hows(graph: Graph) -> dict[str, tuple[How, int]]:
    """What to compare of each float output: how, and the axis of the classes."""
    names: tuple[str, ...] = getattr(graph.terminator.kind, "names", ())
    pairs = zip(names, graph.outputs, strict=False)
    return {n: _how(v) for n, v in pairs if getattr(v.type, "dtype", None) and _is_float(v)}


def _is_float(value: Value) -> bool:
    return value.tensor.dtype.is_float


def _how(value: Value) -> tuple[How, int]:
    shape = value.tensor.shape or ()
    axis = 1 if len(shape) == 4 else -1
    if _normalised(value):
        return "direction", -1
    if len(shape) >= 2 and shape[axis] == 1:
        return "sides", axis
    return ("classes", axis) if len(shape) >= 2 else ("values", -1)


def _normalised(value: Value) -> bool:
    """Whether a value is divided by a norm, or comes from a normalisation, in whatever shape."""
    op = value.op
    while op and op.kind.name in ("reshape", "squeeze", "unsqueeze", "identity", "transpose"):
        op = op.operand(0).op
    if op is None:
        return False
    if op.kind.name in ("layer_norm", "rms_norm", "reduce_mean"):
        return True
    made = op.operand(1).op if op.kind.name in ("div", "mul") and len(op.operands) > 1 else None
    while made and made.kind.name in ("max", "clip", "expand", "sqrt", "reciprocal", "add"):
        made = made.operand(0).op
    return made is not None and made.kind.name.startswith("reduce_")


def _rows(x: Array) -> Array:
    """With a leading axis of samples."""
    return x.reshape(1, -1) if x.ndim < 2 else x


def _answers(rows: Array, how: How, axis: int) -> Array:
    """The classes, or the sides of 0.5 (shares) or 0 (logits), [samples, ...]."""
    if how == "classes":
        return rows.argmax(axis)
    middle = 0.5 if rows.min() >= 0 and rows.max() <= 1 else 0.0
    return (rows > middle).astype(np.int64).squeeze(axis)


def _equal(a: Array, b: Array) -> list[float]:
    """The share of equal answers of each sample."""
    same: Array = np.equal(a, b.reshape(a.shape))
    return [float(v) for v in same.reshape(len(same), -1).mean(1)]


def _fits(labels: Array, answers: Array) -> bool:
    return labels.size == answers.size


def _cosine(want: Array, got: Array) -> list[float]:
    w, g = (x.reshape(len(x), -1) for x in (want, got))
    norms = np.linalg.norm(w, axis=1) * np.linalg.norm(g, axis=1)
    same = np.where(norms > 0, np.sum(w * g, 1) / np.where(norms > 0, norms, 1), 1.0)
    return [float(v) for v in same]


def _near(want: Array, got: Array) -> list[float]:
    w, g = (np.nan_to_num(x.reshape(len(x), -1)) for x in (want, got))
    wide = np.maximum(np.abs(w).max(1), np.finfo(np.float32).tiny)
    return [float(v) for v in 1 - np.minimum(np.abs(g - w).max(1) / wide, 1)]
