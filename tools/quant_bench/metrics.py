"""Scores per sample, and what a quantized model loses against float32 on the same samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

stats: Any = scipy_stats  # its annotations are incomplete
Array = NDArray[Any]
Z = 1.959963984540054  # the normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class Drop:
    """How much is lost: mean, 95 % interval, in points of 100; `p` is the chance of no change."""

    points: float
    low: float
    high: float
    p: float


def paired_drop(before: Array, after: Array) -> Drop:
    """The mean of `before - after`, two scores of the same samples, float [N] in 0..1.

    Right-or-wrong scores get Bonett and Price's adjusted interval for paired proportions (J. Educ.
    Behav. Stat. 37, 2012), which doesn't collapse where nothing changed, and McNemar's exact test;
    others a normal interval and the paired t-test.
    """
    loss = np.asarray(before, np.float64) - np.asarray(after, np.float64)
    binary = all(np.isin(scores, (0, 1)).all() for scores in (before, after))
    low, high, p = _binary(loss) if binary else _continuous(loss)
    return Drop(100 * float(loss.mean()), 100 * low, 100 * high, p)


def _binary(loss: Array) -> tuple[float, float, float]:
    worse, better = int((loss > 0).sum()), int((loss < 0).sum())
    a, b = (worse + 1) / (len(loss) + 2), (better + 1) / (len(loss) + 2)
    half = Z * math.sqrt((a + b - (a - b) ** 2) / (len(loss) + 2))
    p = stats.binomtest(worse, worse + better).pvalue if worse + better else 1.0
    return a - b - half, a - b + half, float(p)


def _continuous(loss: Array) -> tuple[float, float, float]:
    mean, error = float(loss.mean()), float(loss.std(ddof=1)) / math.sqrt(len(loss))
    if error == 0:
        return mean, mean, float(mean == 0)
    p = 2 * float(stats.t.sf(abs(mean) / error, len(loss) - 1))
    return mean - Z * error, mean + Z * error, p


def sqnr(reference: Array, got: Array) -> float:
    """10 log10(sum of reference^2 / sum of (reference - got)^2) over all elements, in dB."""
    signal = noise = 0.0
    for a, b in zip(reference, got, strict=True):  # sample by sample: float64 of all may be large
        wide = a.astype(np.float64)
        signal += float(np.square(wide).sum())
        noise += float(np.square(wide - b).sum())
    if not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise) if signal and noise else math.inf


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def top1(logits: Array, labels: Array) -> Array:
    """Whether the largest of [N, classes] is the label, [N]."""
    return (logits.argmax(-1) == labels).astype(np.float64)


def iou(logits: Array, masks: Array) -> Array:
    """Intersection over union of the foreground (logit above 0) of [N, ...], by sample, [N]."""
    found, wanted = ((a > 0).reshape(len(a), -1) for a in (logits, masks))
    union = (found | wanted).sum(1)
    return np.where(union == 0, 1.0, (found & wanted).sum(1) / np.maximum(union, 1))


def ctc_decode(scores: Array, characters: str) -> list[str]:
    """Best path of CTC: the best class of each step, repeats merged, blanks (class 0) left out.

    Args:
        scores: probabilities or logits, float [N, steps, 1 + len(characters)].
        characters: the classes from 1 on.

    Source: Graves et al., Connectionist Temporal Classification, 2006, section 3.2.
    """
    best = scores.argmax(-1)
    new = np.ones(best.shape, bool)
    new[:, 1:] = best[:, 1:] != best[:, :-1]
    return ["".join(characters[c - 1] for c in row[keep & (row > 0)])
            for row, keep in zip(best, new, strict=True)]  # fmt: skip


def same(before: Array, after: Array) -> Array:
    """The part of the decisions of each sample that are equal, [N]; decisions are [N] or [N, ...]."""
    return (before == after).reshape(len(before), -1).mean(1)
