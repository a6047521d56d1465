"""The schedule that fits a task: what the user set, and the rest found in quantities free of any scale.

* Learning rate: a quarter of the largest rate with which a short run, started at a 1-bit version of the
  weights (whatever they are to become), does not end worse than it started. Nor may it end with a network
  that always answers the same, or loses as much as one: that is less bad than the 1-bit version of some.
  Large rates let weights change their codebook entry and regularise; too large ones undo the reference. On
  LeNet300 0.1 to 0.2 are best with labels and 0.33 fails; without labels 0.7 to 1.5 are best and 2.2 fails.
  Limited time bounds the search, too: see :mod:`~onnxcompress.engine.lc.probe`.
* Penalty: over an L step of S SGD steps with rate η and momentum m, the penalty alone would shrink
  ‖w − Δ(Θ)‖ by exp(−μ η S/(1 − m)). The path runs from a weak pull (exponent ``FIRST_PULL``) to a rigid one
  (``LAST_PULL``), at the rate of the first step, whatever the loss, the number of examples and the size of
  the network.
  Codes are decided in a narrow range around an exponent of 1; a path that runs through it slowly, by a tenth
  from one L step to the next, ends with about half the loss of one that grows by a fifth (500 unlabelled
  examples of MNIST, 4 entries: 0.012 of the outputs' variance is lost on held-out examples instead of 0.021).
  So the additional steps of paths longer than usual are made there, up to an exponent of ``TURN``; the rest
  is as usual, from there to ``RIGID`` at the rate that is left.
  Where so little is left of a network that even the rigid end does not bring w to Δ(Θ), steps follow that
  grow faster, up to half as many (unless the user has set their number).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from onnxcompress.core.encoding import Array
from onnxcompress.core.task import Task
from onnxcompress.engine.lc.lengths import LEAST_L_STEPS, affordable
from onnxcompress.engine.lc.loop import Mode, Schedule
from onnxcompress.engine.lc.lstep import TrainedLearner
from onnxcompress.engine.lc.probe import Probe

STEPS = 40
"""L steps of the path."""

EPOCHS = 5.0
"""Passes over the training split in one L step, within the following bounds of SGD steps."""

LEAST_STEPS, MOST_STEPS = 100, 2500
LR_DECAY = 0.98
FIRST_PULL, LAST_PULL = 0.5, 20.0
TURN, RIGID, TAIL = 2.0, 9.0, 20
"""Of paths with more steps than usual: the exponent, at the rate of the moment, up to which those that they
have more are made; the last exponent; the number of steps between them."""
TOLERANCE = 1e-3

SEARCH_SHARE = 0.25
"""Part of a limited time that the search for the learning rate may take."""


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
    c_step_s: float = 0.0,
) -> Schedule:
    """Return the schedule.

    Args:
        learner: holds the reference weights, and holds them again afterwards.
        task: what is trained on.
        coarse: a 1-bit version of the weights.
        wishes: what the user set.
        time_s: time left for the search and the whole path, which is shortened to fit, so that it ends
            compressed; None: not limited.
        c_step_s: seconds that a C step takes, for that.
    """
    per_epoch = learner.trainer.steps_per_epoch
    steps = wishes.steps or STEPS
    epochs = wishes.epochs or min(max(EPOCHS * per_epoch, LEAST_STEPS), MOST_STEPS) / per_epoch
    wished, began = steps * epochs, time.monotonic()
    probe = Probe(learner, task, coarse, None if time_s is None else SEARCH_SHARE * time_s)
    lr = wishes.lr or probe.learning_rate()
    asked = time.monotonic()
    ceiling = learner.score(coarse).loss
    if time_s is not None:
        around_s = c_step_s + time.monotonic() - asked
        left_s = time_s - (time.monotonic() - began)
        # What the user set is kept as long as anything else can give way.
        least_steps = steps if wishes.steps or wishes.growth else LEAST_L_STEPS
        asked_for = steps, max(1, round(epochs * per_epoch))
        fitting = affordable(asked_for, (probe.step_s(), around_s), left_s, least_steps=least_steps)
        if fitting != asked_for:
            steps, epochs = fitting[0], min(epochs, fitting[1] / per_epoch)
    travelled = lr * epochs * per_epoch / (1 - learner.momentum)
    mu0 = wishes.mu0 or FIRST_PULL / travelled
    decay, slow, faster = wishes.lr_decay or LR_DECAY, None, 1.0
    growth = wishes.growth or max(1.0, LAST_PULL / (mu0 * travelled)) ** (1 / max(1, steps - 1))
    if steps > STEPS and not wishes.growth:
        slow = steps - 1 - TAIL
        growth = max(1.0, (TURN / (mu0 * travelled)) ** (1 / slow) / decay)
        faster = (RIGID / TURN) ** (1 / TAIL) / decay
    return Schedule(
        mode=wishes.mode,
        steps=steps,
        epochs=epochs,
        lr=lr,
        lr_decay=decay,
        mu0=mu0,
        growth=growth,
        multipliers=wishes.multipliers,
        tolerance=TOLERANCE if wishes.tolerance is None else wishes.tolerance,
        ceiling=ceiling if math.isfinite(ceiling) else 0.0,
        further=0 if wishes.steps else steps // 2,
        wished=wished,
        slow=slow,
        faster=faster,
    )
