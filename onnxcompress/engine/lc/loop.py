"""The LC algorithm: min L(w) subject to w = Δ(Θ), by alternating learning (L) and compression (C) steps.

Augmented Lagrangian (Carreira-Perpiñán 2017, eqs. 7–10), for μ = μ0·a^k, k = 0, 1, …::

    L step   w ← argmin_w L(w) + μ/2 ‖w − Δ(Θ) − λ/μ‖²       (SGD, learning rate at most 1/μ: eq. 17)
    C step   Θ ← Π(w − λ/μ)
             λ ← λ − μ (w − Δ(Θ))                             (λ = 0 throughout: quadratic penalty)

The C step knows no network and the L step no codebook. Direct compression (DC) is Θ = Π(reference), no step
at all; iterated direct compression (iDC) starts every L step at Δ(Θ) and has no penalty.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.run import TrainingPoint
from onnxcompress.encodings._base import Projection
from onnxcompress.engine.lc.learner import Learned, Learner, Pull, Score
from onnxcompress.engine.training.scoring import better, within_chance

Mode = Literal["dc", "idc", "lc"]

LOST = 3.0
"""An L step with so many times the loss of direct compression has lost the reference: it is taken back (where
direct compression costs hardly anything, one with the loss of a coarse version, see ``Schedule.ceiling``)."""
_MOST_HALVINGS = 6

OUT_OF_TIME = "the time limit was reached"

FAR = 0.07
"""‖w − Δ(Θ)‖ / ‖w‖ above which the path has not led to Δ(Θ): most of what w has learned is lost with w."""

CLOSE = 0.01
"""Where further steps are made, the gap at which they end."""

STEEPER = 1.3
"""Factor of the penalty parameter, at least, from one further L step to the next."""

MOST_MU = 1e30
"""Largest penalty parameter: w is Δ(Θ) long before, and of larger ones gradients are no float32 numbers."""


@dataclass(frozen=True)
class Part:
    """Weights that one projection compresses jointly (one codebook for all)."""

    weights: tuple[str, ...]
    projection: Projection


@dataclass(frozen=True)
class Schedule:
    """The path of the penalty parameter and of the learning rate.

    Attributes:
        mode: ``"dc"``, ``"idc"`` or ``"lc"``.
        steps: number of L steps.
        epochs: passes over the training split in one L step.
        lr: learning rate of the first L step.
        lr_decay: factor from one L step to the next.
        mu0: penalty parameter of the first L step.
        growth: factor from one L step to the next, in the first ``slow`` ones (None: in all).
        multipliers: augmented Lagrangian; otherwise the quadratic penalty.
        tolerance: the path ends where ‖w − Δ(Θ)‖ / ‖w‖ is smaller.
        ceiling: a loss below which the reference is not lost: that of a coarse version of it.
        further: L steps, at most, that follow until w is ``CLOSE`` where it is ``FAR`` after ``steps``.
        wished: passes over the training split in all L steps, had time not been limited.
        slow: see ``growth``.
        faster: factor in the steps after them.
    """

    mode: Mode
    steps: int
    epochs: float
    lr: float
    lr_decay: float
    mu0: float
    growth: float
    multipliers: bool
    tolerance: float
    ceiling: float = 0.0
    further: int = 0
    wished: float = 0.0
    slow: int | None = None
    faster: float = 1.0

    def mu(self, step: int) -> float:
        """Return μ of an L step, counted from 0; 0 where the mode has no penalty."""
        if self.mode != "lc":
            return 0.0
        whole = min(step, self.steps - 1)
        slow = whole if self.slow is None else min(whole, self.slow)
        path = ((self.growth, slow), (self.faster, whole - slow), (max(self.growth, STEEPER), step - whole))
        if math.log2(self.mu0) + sum(n * math.log2(factor) for factor, n in path) >= math.log2(MOST_MU):
            return MOST_MU
        return self.mu0 * math.prod(factor**n for factor, n in path)

    def ended(self, step: int, gap: float | None) -> bool:
        """Return whether the path ends after so many L steps, ‖w − Δ(Θ)‖ / ‖w‖ being ``gap``."""
        if step < self.steps:
            return False
        enough = FAR if step == self.steps else CLOSE
        return self.mode != "lc" or step >= self.steps + self.further or gap is None or gap <= enough

    def rate(self, step: int) -> float:
        """Return the learning rate of an L step, clipped at 1/μ (eq. 17)."""
        rate, mu = self.lr * self.lr_decay**step, self.mu(step)
        return min(rate, 1.0 / mu) if mu > 0 else rate


@dataclass
class State:
    """Where the loop is, so that it can be taken up again.

    Attributes:
        step: L steps made.
        theta: Θ, weight name -> encoding.
        decoded: Δ(Θ), weight name -> array.
        multipliers: λ, weight name -> array; empty while it is zero.
        before: all weights at the start of the L step under way; empty between two steps.
        best_score: the best score so far.
        best_theta: Θ of the state that is kept: the best, or a later one that is as good but for chance.
        best: the uncompressed weights of it.
        best_step: the number of L steps it was found after; 0 is direct compression.
        points: the path.
        epochs: passes over the training split.
        lr_factor: what the learning rate is multiplied by, after L steps that were taken back.
        elapsed_s: seconds spent before this process took up the loop.
    """

    step: int = 0
    theta: dict[str, Encoding] = field(default_factory=dict)
    decoded: dict[str, Array] = field(default_factory=dict)
    multipliers: dict[str, Array] = field(default_factory=dict)
    before: dict[str, Array] = field(default_factory=dict)
    best_theta: dict[str, Encoding] = field(default_factory=dict)
    best: dict[str, Array] = field(default_factory=dict)
    best_score: Score | None = None
    best_step: int = 0
    points: list[TrainingPoint] = field(default_factory=list)
    epochs: float = 0.0
    lr_factor: float = 1.0
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """The best compressed model of the path.

    Attributes:
        encodings: weight name -> Θ; what is returned is always Δ(Θ), never w.
        others: values of the uncompressed weights that go with it.
        points: the path; point 0 is direct compression.
        chosen: index of the point that is returned.
        epochs: passes over the training split.
        stopped: why the path ended, in words.
    """

    encodings: Mapping[str, Encoding]
    others: Mapping[str, Array]
    points: tuple[TrainingPoint, ...]
    chosen: int
    epochs: float
    stopped: str


def compress(
    parts: Sequence[Part],
    learner: Learner,
    schedule: Schedule,
    *,
    state: State | None = None,
    tell: Callable[[State, TrainingPoint], None] = lambda state, point: None,
) -> Result:
    """Run DC, iDC or LC and return the state that scored best on the validation split.

    Of LC's states within a standard error of the best it is the last no worse than DC: the best of many looks
    at few examples is mostly luck. Where the original remembers the split: see ``Learner.sufficient``.

    Args:
        parts: what is compressed how; weights that no part names are trained along, uncompressed.
        learner: the L step, holding the reference weights (or those that belong to ``state``).
        schedule: the path.
        state: a state to go on from; None: start.
        tell: called after every step with the complete state (to save it, to show progress).
    """
    return _Loop(parts, learner, schedule, state or State(), tell).run()


def project(
    parts: Sequence[Part],
    weights: Mapping[str, Array],
    *,
    mu: float | None = None,
    previous: Mapping[str, Encoding] | None = None,
) -> dict[str, Encoding]:
    """Return the C step of all parts: weight name -> Θ."""
    found: dict[str, Encoding] = {}
    for part in parts:
        warm = [previous[name] for name in part.weights] if previous else None
        encodings = part.projection.project([weights[n] for n in part.weights], mu=mu, previous=warm)
        found.update(zip(part.weights, encodings, strict=True))
    return found


class _Loop:
    """One run of the algorithm."""

    def __init__(
        self,
        parts: Sequence[Part],
        learner: Learner,
        schedule: Schedule,
        state: State,
        tell: Callable[[State, TrainingPoint], None],
    ) -> None:
        self.parts, self.learner, self.schedule, self.state, self.tell = parts, learner, schedule, state, tell
        self.names = [name for part in parts for name in part.weights]
        self.score: Score | None = None
        self.began = time.monotonic() - state.elapsed_s

    def run(self) -> Result:
        state = self.state
        if state.points:
            if (loss := state.points[-1].compressed_loss) is not None:
                self.score = self._judged(Score(loss, state.points[-1].compressed_metric))
        else:
            self._start()
        stopped, whole = "direct compression" if self.schedule.mode == "dc" else "all steps made", True
        while self.schedule.mode != "dc" and not self.schedule.ended(state.step, state.points[-1].gap):
            end = self._step()
            if end is not None:
                stopped, whole = end, end.startswith("w and")
                break
        if whole and not self._is_late(state.best_step) and self._suffices():
            self._keep()  # the path ended before its second half
        if self.learner.sufficient is not None and state.best_step > 0:
            stopped += "; the original remembers the validation split, early states were passed over"
        points = tuple(state.points)
        return Result(state.best_theta, state.best, points, state.best_step, state.epochs, stopped)

    def _start(self) -> None:
        """Direct compression: the μ → 0 end of the path, and the state every later one has to beat."""
        weights = self.learner.weights(self.names)
        self.state.theta = project(self.parts, weights, mu=self.schedule.mu(0) or None)
        self.state.decoded = self._decode()
        if self.schedule.mode == "idc":
            self.learner.put(self.state.decoded)
        self._note(weights, None, None)

    def _step(self) -> str | None:
        """Make one L and one C step; return why the path ends here, None where it goes on."""
        state, schedule = self.state, self.schedule
        mu = schedule.mu(state.step)
        learned = self._learn(self._pull(mu) if mu > 0 else None)
        if isinstance(learned, str):
            return learned
        weights = self.learner.weights(self.names)
        shifted = self._shifted(weights, mu)
        state.theta = project(self.parts, shifted, mu=mu or None, previous=state.theta)
        state.decoded = self._decode()
        if schedule.mode == "idc":
            self.learner.put(state.decoded)
        if schedule.multipliers and mu > 0:
            self._update_multipliers(weights, mu)
        state.step += 1
        state.epochs += learned.epochs
        point = self._note(weights, mu or None, learned.loss)
        if learned.stopped == "time":
            return OUT_OF_TIME
        if schedule.mode == "lc" and point.gap is not None and point.gap < schedule.tolerance:
            return f"w and Δ(Θ) differ by less than {schedule.tolerance:g}"
        return None

    def _learn(self, pull: Pull | None) -> Learned | str:
        """Make an L step, with half the learning rate where it lost the reference.

        Returns why the path ends where none was made that keeps it.
        """
        state, schedule = self.state, self.schedule
        if not state.before:
            state.before = {**self.learner.weights(self.names), **self.learner.others()}
        while True:
            rate = schedule.rate(state.step) * state.lr_factor
            learned = self.learner.learn(state.step, pull, epochs=schedule.epochs, lr=rate)
            direct = state.points[0].compressed_loss
            lost = learned.stopped == "diverged" or (
                learned.loss is not None
                and direct is not None
                and learned.loss > max(LOST * abs(direct), schedule.ceiling)
            )
            if not lost:
                state.before = {}
                return learned
            self.learner.put(state.before)
            state.lr_factor /= 2
            if learned.stopped == "time":
                return OUT_OF_TIME
            if state.lr_factor < 0.5**_MOST_HALVINGS:
                return "the loss diverged"

    def _pull(self, mu: float) -> Pull:
        """Return the penalty towards Δ(Θ) + λ/μ."""
        multipliers = self.state.multipliers
        targets = {
            name: decoded + (multipliers[name] / mu).astype(decoded.dtype) if name in multipliers else decoded
            for name, decoded in self.state.decoded.items()
        }
        return Pull(mu, targets)

    def _shifted(self, weights: Mapping[str, Array], mu: float) -> dict[str, Array]:
        """Return w − λ/μ, in the weights' own types."""
        multipliers = self.state.multipliers
        return {
            name: w - (multipliers[name] / mu).astype(w.dtype) if name in multipliers else w
            for name, w in weights.items()
        }

    def _update_multipliers(self, weights: Mapping[str, Array], mu: float) -> None:
        for name, w in weights.items():
            step = mu * (w.astype(np.float64) - self.state.decoded[name])
            old = self.state.multipliers.get(name)
            self.state.multipliers[name] = (-step if old is None else old - step).astype(np.float32)

    def _decode(self) -> dict[str, Array]:
        return {name: encoding.decode() for name, encoding in self.state.theta.items()}

    def _note(self, weights: Mapping[str, Array], mu: float | None, loss: float | None) -> TrainingPoint:
        """Score Δ(Θ), keep it if it is the best so far, and append a point to the path."""
        state = self.state
        score = self.learner.score(state.decoded)
        self.score = self._judged(score)
        # States of a penalty form are compressed differently: what they cost has to count.
        by_loss = any(part.projection.penalised for part in self.parts)
        direction = None if by_loss else self.learner.higher_is_better
        first_late = self._is_late(state.step) and not self._is_late(state.best_step) and self._suffices()
        if state.best_score is None or first_late or better(self.score, state.best_score, direction):
            self._keep()
        elif state.best_step > 0 and self._is_as_good(state.best_score, direction):
            self._keep(state.best_score)
        point = TrainingPoint(
            step=state.step,
            mu=mu,
            loss=loss,
            compressed_loss=score.loss,
            compressed_metric=score.metric,
            gap=_gap(weights, state.decoded),
            elapsed_s=time.monotonic() - self.began,
        )
        state.points.append(point)
        state.elapsed_s = point.elapsed_s
        self.tell(state, point)
        return point

    def _is_as_good(self, best: Score, higher: bool | None) -> bool:
        """Whether the present state of LC is as good as the best but for chance, and no worse than DC."""
        score, direct = self.score, self.state.points[0].compressed_metric
        if self.schedule.mode != "lc" or score is None or score.metric is None or direct is None:
            return False
        return score.metric >= direct and within_chance(score, best, score.examples, higher)

    def _judged(self, score: Score) -> Score:
        """Return the score with what penalty forms add to the loss: the objective L(Δ(Θ)) + α·C(Θ)."""
        costs = (part.projection.cost([self.state.theta[n] for n in part.weights]) for part in self.parts)
        return replace(score, loss=score.loss + sum(costs))

    def _keep(self, best: Score | None = None) -> None:
        """Make the present state the one that is returned; it is as good as one with the score ``best``."""
        state = self.state
        state.best_score, state.best_step, state.best_theta = best or self.score, state.step, state.theta
        state.best = {name: a for name, a in self.learner.others().items() if name not in state.theta}

    def _is_late(self, step: int) -> bool:
        """Return whether a step lies in the second half of the path."""
        return 2 * step >= max(self.schedule.steps, 1)

    def _suffices(self) -> bool:
        """Return whether the present state, not direct compression, reaches ``Learner.sufficient``."""
        sufficient, score = self.learner.sufficient, self.score
        if sufficient is None or score is None or self.state.step == 0:
            return False
        return not better(sufficient, score, self.learner.higher_is_better)


def _gap(weights: Mapping[str, Array], decoded: Mapping[str, Array]) -> float:
    """Return ‖w − Δ(Θ)‖ / ‖w‖ over all compressed weights."""
    apart = whole = 0.0
    for name, w in weights.items():
        wide = w.astype(np.float64)
        apart += float(np.square(wide - decoded[name].astype(np.float64)).sum())
        whole += float(np.square(wide).sum())
    return math.sqrt(apart / whole) if whole > 0 else 0.0
