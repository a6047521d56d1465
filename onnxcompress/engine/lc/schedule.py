"""The schedule that fits a task: what the user set, and the rest found in quantities free of any scale.

* Learning rate: a quarter of the largest rate with which a short run, started at a 1-bit version of the
  weights (whatever they are to become), does not end worse than it started. Nor may it end with a network
  that always answers the same, or loses as much as one: that is less bad than the 1-bit version of some.
  Large rates let weights change their codebook entry and regularise; too large ones undo the reference. On
  LeNet300 0.1 to 0.2 are best with labels and 0.33 fails; without labels 0.7 to 1.5 are best and 2.2 fails.
* Penalty: over an L step of S SGD steps with rate η and momentum m, the penalty alone would shrink
  ‖w − Δ(Θ)‖ by exp(−μ η S/(1 − m)). The path runs from a weak pull (exponent ``FIRST_PULL``) to a rigid one
  (``LAST_PULL``), whatever the loss, the number of examples and the size of the network.
  Codes are decided in a narrow range around an exponent of 1; a path that runs through it slowly, by a tenth
  from one L step to the next, ends with about half the loss of one that grows by a fifth (500 unlabelled
  examples of MNIST, 4 entries: 0.012 of the outputs' variance is lost on held-out examples instead of 0.021).
  Where so little is left of a network that even the rigid end does not bring w to Δ(Θ), steps follow that
  grow faster, up to half as many (unless the user has set their number).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from onnxcompress.core.encoding import Array
from onnxcompress.core.task import Task
from onnxcompress.engine.lc.loop import Mode, Schedule
from onnxcompress.engine.lc.lstep import TrainedLearner

STEPS = 40
"""L steps of the path."""

EPOCHS = 5.0
"""Passes over the training split in one L step, within the following bounds of SGD steps."""

LEAST_STEPS, MOST_STEPS = 100, 2500
LR_DECAY = 0.98
FIRST_PULL, LAST_PULL = 0.5, 20.0
TOLERANCE = 1e-3

LIMIT_SHARE = 0.25
PROBE_STEPS = 60
PROBE_EXAMPLES = 2048
_CANDIDATES = 14
_TIME_SHARE = 0.85
_DEAD_SHARE = 0.1
"""Share of what the reference is better than one answer for all inputs, below which a network has died."""


@dataclass(frozen=True)
class Wishes:
    """What the user set of a schedule; None: found automatically."""

    mode: Mode = "lc"
    multipliers: bool = True
    steps: int | None = None
    epochs: float | None = None
    lr: float | None = None
    lr_decay: float | None = None
    mu0: float | None = None
    growth: float | None = None
    tolerance: float | None = None


def fit_schedule(
    learner: TrainedLearner,
    task: Task,
    coarse: Mapping[str, Array],
    wishes: Wishes,
    *,
    time_s: float | None = None,
) -> Schedule:
    """Return the schedule.

    Args:
        learner: holds the reference weights, and holds them again afterwards.
        task: what is trained on.
        coarse: a 1-bit version of the weights.
        wishes: what the user set.
        time_s: time left for the whole path; L steps are shortened to fit, so that it ends compressed.
    """
    per_epoch = learner.trainer.steps_per_epoch
    steps = wishes.steps or STEPS
    epochs = wishes.epochs or min(max(EPOCHS * per_epoch, LEAST_STEPS), MOST_STEPS) / per_epoch
    began = time.monotonic()
    probe = _Probe(learner, task, coarse)
    lr = wishes.lr or probe.learning_rate()
    ceiling = learner.score(coarse).loss
    if time_s is not None:
        left = _TIME_SHARE * (time_s - (time.monotonic() - began))
        epochs = max(min(epochs, left / (steps * per_epoch * probe.step_s())), 1 / per_epoch)
    travelled = lr * epochs * per_epoch / (1 - learner.momentum)
    mu0 = wishes.mu0 or FIRST_PULL / travelled
    growth = wishes.growth or max(1.0, LAST_PULL / (mu0 * travelled)) ** (1 / max(1, steps - 1))
    return Schedule(
        mode=wishes.mode,
        steps=steps,
        epochs=epochs,
        lr=lr,
        lr_decay=wishes.lr_decay or LR_DECAY,
        mu0=mu0,
        growth=growth,
        multipliers=wishes.multipliers,
        tolerance=TOLERANCE if wishes.tolerance is None else wishes.tolerance,
        ceiling=ceiling if math.isfinite(ceiling) else 0.0,
        further=0 if wishes.steps else steps // 2,
    )


class _Probe:
    """Short runs from the 1-bit version; the reference is put back after each."""

    def __init__(self, learner: TrainedLearner, task: Task, coarse: Mapping[str, Array]) -> None:
        self.learner, self.trainer, self.coarse, self.task = learner, learner.trainer, coarse, task
        generator = np.random.default_rng([task.seed, 0x9B0BE])
        self.examples = generator.permutation(task.train)[:PROBE_EXAMPLES]
        self.names: Sequence[str] = (*learner.compressed, *learner.others())
        self.hardly_any: float | None = None

    def learning_rate(self) -> float:
        """Return the learning rate that the rule at the top of this file chooses."""
        base = self.trainer.evaluate(self.examples).loss
        start = self.trainer.evaluate(self.examples, arrays=self.coarse).loss
        if not math.isfinite(start):
            start = 2 * base + 1
        idle = self.trainer.idle_loss(PROBE_EXAMPLES)
        if base < idle < start:
            start = idle  # what is no better than one answer to everything has not recovered from anything
        self.hardly_any = self._hardly_any()
        damage = max(start - base, 1e-3 * abs(base), 1e-12)
        slope = self._squared_gradient()
        if not slope > 0 or not math.isfinite(slope):
            return 1e-3
        first = damage / slope / 32
        best, largest, least = first, None, math.inf
        for doublings in range(_CANDIDATES):
            rate = first * 2**doublings
            excess = (self._after(rate) - base) / damage
            if excess < least:
                best, least = rate, excess
            if excess <= 1:
                largest = rate
            elif largest is not None:
                break
        for halvings in range(1, _CANDIDATES):
            if largest is None and self._after(first / 2**halvings) - base <= damage:
                largest = first / 2**halvings
        return best / 2 if largest is None else LIMIT_SHARE * largest

    def step_s(self) -> float:
        """Return the seconds that one SGD step takes."""
        steps = min(PROBE_STEPS, 10)
        began = time.monotonic()
        self._run(steps, 1e-12)
        return max((time.monotonic() - began) / steps, 1e-6)

    def _hardly_any(self) -> float | None:
        """Return a metric that a network with one answer for all inputs nearly reaches; None: not known."""
        if not self.trainer.higher_is_better:
            return None
        zero = {name: np.zeros_like(array) for name, array in self.coarse.items()}
        worst = self.trainer.evaluate(self.examples, arrays=zero).metric
        whole = self.trainer.evaluate(self.examples).metric
        if worst is None or whole is None:
            return None
        worst = max(worst, self._most_frequent())
        if not whole > worst:
            return None
        return worst + _DEAD_SHARE * (whole - worst)

    def _most_frequent(self) -> float:
        """Return the share of the most frequent class where that is what is right of one answer, else 0."""
        labels = self.task.samples.labels(self.examples) if self.trainer.metric_name == "top1" else None
        if labels is None or labels.dtype.kind not in "iu":
            return 0.0
        return float(np.bincount(labels.reshape(-1)).max() / labels.size)

    def _after(self, rate: float) -> float:
        """Return the loss after a short run with this rate; infinite where it diverged."""
        return self._run(PROBE_STEPS, rate)

    def _squared_gradient(self) -> float:
        """Return ‖∂L/∂w‖² of one batch at the 1-bit version."""
        self._run(1, 1e-30)
        gradients = [self.trainer.graph.weight(name).grad for name in self.names]
        return sum(float(g.double().square().sum()) for g in gradients if g is not None)

    def _run(self, steps: int, rate: float) -> float:
        graph, trainer = self.trainer.graph, self.trainer
        reference = [graph.weight(name).detach().clone() for name in self.names]
        known = len(trainer.warnings)
        try:
            self.learner.put(self.coarse)
            outcome = trainer.run(
                steps / trainer.steps_per_epoch,
                lr=rate,
                momentum=self.learner.momentum,
                parameters=self.names,
                augmentation=self.learner.augmentation,
                progress=lambda fraction, words: None,
            )
            # A rate at which the trainer had to step back is too large.
            halved = outcome.stopped == "diverged" or len(trainer.warnings) > known
            found = trainer.evaluate(self.examples)
            reached = math.inf if found.metric is None else found.metric
            dead = self.hardly_any is not None and reached < self.hardly_any
            return math.inf if halved or dead else found.loss
        finally:
            del trainer.warnings[known:]
            with torch.no_grad():
                for name, values in zip(self.names, reference, strict=True):
                    graph.weight(name).copy_(values)
