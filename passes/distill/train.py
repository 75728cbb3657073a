"""The training loop: Adam, a cosine schedule, the state that is best on runs kept aside."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.ir.types import Array
from graphopt.passes.distill.augment import augmented
from graphopt.passes.distill.library import Tensor, Torch
from graphopt.passes.distill.network import Network
from graphopt.passes.distill.objective import Objective

ASIDE = 0.1  # share of the runs that the best state is chosen on
MOST_ASIDE = 512
WARM = 0.05  # share of the training in which the rate rises
SMALLEST = 1e-3  # root mean square that a weight is taken to have at least, for its rate

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """How to train (see the options of `distill.Distill`)."""

    epochs: float
    seconds: float | None
    lr: float
    batch: int
    augment: tuple[str, ...]
    patience: int | None
    seed: int


@dataclass
class History:
    """What came of it: epochs trained, seconds, the loss aside before and at the best."""

    epochs: float = 0.0
    seconds: float = 0.0
    before: float = math.nan
    after: float = math.nan


@dataclass
class Trainer:
    """Trains `mine` to be like `original` on the runs in `data`, an array [runs, ...] an input.

    `images` says which inputs are (see `augment`). Nothing random but `settings.seed`.
    """

    torch: Torch
    mine: Network
    original: Network
    objective: Objective
    data: Sequence[Array]
    images: Sequence[bool]
    settings: Settings
    progress: Progress
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        """Keep some runs aside."""
        self.random = np.random.default_rng(self.settings.seed)
        order = self.random.permutation(len(self.data[0]))
        count = min(max(round(ASIDE * len(order)), 1), MOST_ASIDE) if len(order) > 1 else 0
        self.aside, self.seen = order[:count], np.sort(order[count:])
        self.steps = max(math.ceil(len(self.seen) / self.settings.batch), 1)  # of an epoch
        self.total = max(round(self.settings.epochs * self.steps), 1)

    def train(self) -> list[Tensor]:
        """The best state; the one there was at first where none is better."""
        best, history = self.mine.state(), self.history
        history.before = history.after = self.loss_aside()
        optimizer = self._optimizer()
        began, worse = time.perf_counter(), 0
        for step, done in self._steps(began):
            self._set_rates(optimizer, done)
            self._step(optimizer)
            history.epochs = step / self.steps
            history.seconds = time.perf_counter() - began
            self.progress(f"distill (loss {history.after:.4f}, was {history.before:.4f})",
                          step, self.total)  # fmt: skip
            if step % self.steps and not self._over(step, began):
                continue
            loss = self.loss_aside()
            if loss < history.after:
                history.after, best, worse = loss, self.mine.state(), 0
            else:
                worse += 1
            if self.settings.patience is not None and worse > self.settings.patience:
                break
        return best

    def loss_aside(self) -> float:
        """The loss on the runs kept aside, as they are; on all, where none are."""
        at = self.aside if len(self.aside) else self.seen
        total = 0.0
        with self.torch.no_grad():
            for part in _parts(at, self.settings.batch):
                batch = self._tensors([x[part] for x in self.data])
                loss = self.objective(self.mine(batch), self.original(batch))
                total += float(loss) * len(part)
        return total / len(at)

    def _steps(self, began: float) -> Iterator[tuple[int, float]]:
        """Pairs of a step's number, from 1, and the share of the training that is done before."""
        for step in range(1, self.total + 1):
            done, limit = (step - 1) / self.total, self.settings.seconds
            if limit is not None:
                done = max(done, (time.perf_counter() - began) / limit)
            if done >= 1:
                return
            yield step, done

    def _over(self, step: int, began: float) -> bool:
        limit = self.settings.seconds
        late = limit is not None and time.perf_counter() - began >= limit
        return late or step == self.total

    def _step(self, optimizer: Tensor) -> None:
        """One batch: forward, backward, new weights."""
        batch = self._tensors(self._next())
        with self.torch.no_grad():
            wanted = self.original(batch)
        loss = self.objective(self.mine(batch), wanted)
        optimizer.zero_grad()
        loss.backward()
        self.mine.keep_zeros()
        optimizer.step()

    def _next(self) -> list[Array]:
        """The inputs of the next batch, augmented; each epoch shuffles anew."""
        if not self._left:
            self._left = list(_parts(self.random.permutation(self.seen), self.settings.batch))
        at = self._left.pop(0)
        ways = self.settings.augment
        return augmented([x[at] for x in self.data], self.images, ways, self.random)

    def _tensors(self, arrays: Sequence[Array]) -> list[Tensor]:
        return [self.torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]

    def _optimizer(self) -> Tensor:
        """Adam (Kingma and Ba 2015, arXiv 1412.6980).

        Each weight's rate is `lr` times its root mean square (Shazeer and Stern 2018, arXiv
        1804.04235, section 8): folded normalisations leave layers of very different sizes.
        """
        self._left: list[Array] = []
        groups = [
            {"params": [w], "scale": max(float(w.detach().square().mean().sqrt()), SMALLEST)}
            for w in self.mine.weights.values()
        ]
        return self.torch.optim.Adam(groups, lr=self.settings.lr)

    def _set_rates(self, optimizer: Tensor, done: float) -> None:
        """Linear up, then a half cosine down to 0 (Loshchilov and Hutter, arXiv 1608.03983)."""
        warm = min(done / WARM + 1 / self.total, 1.0)
        rate = self.settings.lr * warm * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]


def _parts(order: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
