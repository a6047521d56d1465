"""The learning rate of LC, found by short runs from a 1-bit version of the weights.

The rule is at the top of :mod:`~onnxcompress.engine.lc.schedule`. Where time is limited, runs are shorter and
judged on fewer examples, rates are four times each other, and the one is taken that leads to the least loss
of those tried by the deadline: a path that comes to its end with a rate that is not quite the best is worth
more than the best rate for a path that does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from onnxcompress.core.encoding import Array
from onnxcompress.core.task import Task
from onnxcompress.engine.lc.lstep import TrainedLearner
from onnxcompress.engine.training.loop import Outcome

LIMIT_SHARE = 0.25
PROBE_STEPS, PROBE_EXAMPLES = 60, 2048
LEAST_PROBE_STEPS, LEAST_PROBE_EXAMPLES = 10, 128
_CANDIDATES = 14
_TIMED_STEPS = 2
_HURRIED_RUNS = 6
"""Runs that have to fit into a limited time: rates four times each other are about so many."""

_START = 4
"""Times the first rate of the thorough search where time is short: the largest is mostly 4 to 64 times it."""

_DEAD_SHARE = 0.1
"""Share of what the reference is better than one answer for all inputs, below which a network has died."""


class Probe:
    """Short runs from the 1-bit version; the reference is put back after each.

    Args:
        learner: holds the reference weights.
        task: what is trained on.
        coarse: the 1-bit version.
        budget_s: seconds for the search; None: no limit.
    """

    def __init__(
        self,
        learner: TrainedLearner,
        task: Task,
        coarse: Mapping[str, Array],
        budget_s: float | None = None,
    ) -> None:
        self.learner, self.trainer, self.coarse, self.task = learner, learner.trainer, coarse, task
        self.deadline = math.inf
        self.steps, self.most, self.hurried = PROBE_STEPS, PROBE_EXAMPLES, False
        generator = np.random.default_rng([task.seed, 0x9B0BE])
        self.examples = generator.permutation(task.train)[:PROBE_EXAMPLES]
        self.names: Sequence[str] = (*learner.compressed, *learner.others())
        self.hardly_any: float | None = None
        self.timed_s, self.timed_steps = 0.0, 0
        if budget_s is not None:
            self._fit(budget_s)

    def _fit(self, budget_s: float) -> None:
        """Let the runs be as long as there is time for."""
        with self._borrowed():
            self._train(1, 1e-12)
            first_s, made = self.timed_s, self.timed_steps
            self._train(_TIMED_STEPS, 1e-12)
        if self.timed_steps > made:  # the first step prepares much that the others find
            self.timed_s, self.timed_steps = self.timed_s - first_s, self.timed_steps - made
        affordable = budget_s / (PROBE_STEPS * self.step_s())
        self.hurried = affordable < 2 * _CANDIDATES
        part = min(1.0, affordable / _HURRIED_RUNS)
        self.steps = max(LEAST_PROBE_STEPS, round(part * PROBE_STEPS))
        self.most = max(LEAST_PROBE_EXAMPLES, round(part * PROBE_EXAMPLES))
        self.examples = self.examples[: self.most]
        self.deadline = time.monotonic() + budget_s

    def learning_rate(self) -> float:
        """Return the learning rate that the rule at the top of this file chooses."""
        base = self.trainer.evaluate(self.examples).loss
        coarse = self.trainer.evaluate(self.examples, arrays=self.coarse)
        start = coarse.loss
        if not math.isfinite(start):
            start = 2 * base + 1
        # Where there is no time for a run, what one would be compared with is not needed either.
        rushed = self.deadline - time.monotonic() < self.steps * self.step_s()
        idle = math.inf if rushed else self.trainer.idle_loss(self.most)
        if base < idle < start:
            start = idle  # what is no better than one answer to everything has not recovered from anything
        self.hardly_any = None if rushed else self._hardly_any()
        damage = max(start - base, 1e-3 * abs(base), 1e-12)
        slope = self._squared_gradient()
        if not slope > 0 or not math.isfinite(slope):
            return 1e-3
        first = damage / slope / 32
        if rushed:
            return first
        if self.hurried:
            if self.hardly_any is not None and (coarse.metric or 0.0) < self.hardly_any:
                self.hardly_any = None  # a run of few steps need not bring it back to life
            return self._hurried(first)
        best, largest, least = first, None, math.inf
        for doublings in range(_CANDIDATES):
            rate = first * 2**doublings
            after = self._after(rate)
            if after is None:  # out of time
                return best / 2 if largest is None else LIMIT_SHARE * largest
            excess = (after - base) / damage
            if excess < least:
                best, least = rate, excess
            if excess <= 1:
                largest = rate
            elif largest is not None:
                break
        for halvings in range(1, _CANDIDATES):
            if largest is not None:
                break
            after = self._after(first / 2**halvings)
            if after is None:
                return best / 2
            if after - base <= damage:
                largest = first / 2**halvings
        return best / 2 if largest is None else LIMIT_SHARE * largest

    def _hurried(self, first: float) -> float:
        """Return the rate with the least loss after a run, of those there is time for."""
        best = rate = _START * first
        least = self._after(rate)
        if least is None:
            return first
        factor = 4.0 if math.isfinite(least) else 0.25
        for _ in range(_CANDIDATES):
            rate *= factor
            after = self._after(rate)
            if after is None or (math.isfinite(least) and not after < least):
                break
            best, least = rate, after
        return best if math.isfinite(least) else first

    def step_s(self) -> float:
        """Return the seconds that one SGD step took in the runs so far; infinite where none was made."""
        return max(self.timed_s / self.timed_steps, 1e-6) if self.timed_steps else math.inf

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

    def _after(self, rate: float) -> float | None:
        """Return the loss after a short run with this rate, infinite where it diverged; None: out of time."""
        return None if time.monotonic() >= self.deadline else self._run(self.steps, rate)

    def _squared_gradient(self) -> float:
        """Return ‖∂L/∂w‖² of one batch at the 1-bit version."""
        with self._borrowed():
            self._train(1, 1e-30)
            gradients = [self.trainer.graph.weight(name).grad for name in self.names]
            return sum(float(g.double().square().sum()) for g in gradients if g is not None)

    def _run(self, steps: int, rate: float) -> float | None:
        trainer = self.trainer
        known = len(trainer.warnings)
        with self._borrowed():
            outcome = self._train(steps, rate)
            # A rate at which the trainer had to step back is too large.
            if outcome.stopped == "diverged" or len(trainer.warnings) > known:
                return math.inf
            if outcome.stopped == "time":
                return None
            found = trainer.evaluate(self.examples)
        reached = math.inf if found.metric is None else found.metric
        return math.inf if self.hardly_any is not None and reached < self.hardly_any else found.loss

    def _train(self, steps: int, rate: float) -> Outcome:
        began = time.monotonic()
        outcome = self.trainer.run(
            steps / self.trainer.steps_per_epoch,
            lr=rate,
            momentum=self.learner.momentum,
            parameters=self.names,
            augmentation=self.learner.augmentation,
            progress=lambda fraction, words: None,
            until=self.deadline,
        )
        self.timed_s += time.monotonic() - began
        self.timed_steps += round(outcome.epochs * self.trainer.steps_per_epoch)
        return outcome

    @contextmanager
    def _borrowed(self) -> Iterator[None]:
        """Let the graph hold the 1-bit version for a while."""
        graph, trainer = self.trainer.graph, self.trainer
        reference = [graph.weight(name).detach().clone() for name in self.names]
        known = len(trainer.warnings)
        try:
            self.learner.put(self.coarse)
            yield
        finally:
            del trainer.warnings[known:]
            with torch.no_grad():
                for name, values in zip(self.names, reference, strict=True):
                    graph.weight(name).copy_(values)
