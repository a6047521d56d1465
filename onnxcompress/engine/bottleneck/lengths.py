"""Lengths: how many passes are made with gates and after the decision, as asked for and as there is time for.

A training that is broken off has its gates half closed and nothing learnt without the channels that go: where
time is limited, a shorter one that comes to its end is worth far more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from torch import nn

from onnxcompress.engine.bottleneck.job import Wishes
from onnxcompress.engine.bottleneck.recovery import PROBE_STEPS, RATES
from onnxcompress.engine.training.augmentation import Augmentation
from onnxcompress.engine.training.lengths import passes
from onnxcompress.engine.training.trainer import Trainer

EPOCHS, LEAST_STEPS = 10.0, 1000
"""Passes over the data with gates, and least number of steps, where nothing else is asked for."""

LEAST_GATED = 0.4
"""Part of the passes with gates that stays with them where there is next to no time: a fifth of all passes,
not a half. Where there is time for 2 · ``LEAST_STEPS`` steps, all of it does."""

_TIMED_STEPS = 4
"""Steps whose time is taken, after one that is not."""

_USED = 0.8
"""Part of the time that is left that is planned for: the decision, and whatever else runs here, take some."""

_LEAST_TRAINED = 0.4
"""Part of that which is trained: the other ways to go on get as much again at most, and are looked at."""


def wished(wishes: Wishes, cheap: int, steps_per_epoch: int) -> tuple[float, float]:
    """Return the passes with gates and after, where they were not asked for: more over few examples.

    Args:
        wishes: what was asked for.
        cheap: steps that cost little (:func:`~onnxcompress.engine.training.lengths.cheap_steps`).
        steps_per_epoch: steps of one pass.
    """
    gated, after = wishes.epochs, wishes.after
    if gated is None:
        gated = passes(EPOCHS, max(LEAST_STEPS, cheap), steps_per_epoch)
    return gated, gated if after is None else after


def in_time(
    passes: tuple[float, float],
    trainer: Trainer,
    parameters: Sequence[str],
    augmentation: Augmentation | None,
    *,
    lent: Sequence[nn.Module],
    ways: int,
) -> tuple[float, float]:
    """Return the passes, with gates and after, that there is time for.

    Args:
        passes: wished.
        trainer: ready to train, everything in place; as before afterwards.
        parameters: weights that change.
        augmentation: of the training.
        lent: what the graph runs with besides.
        ways: number of those to go on after the decision that may be compared.
    """
    if math.isinf(trainer.seconds_left):
        return passes
    states = [{name: value.clone() for name, value in module.state_dict().items()} for module in lent]
    with trainer.rehearsing():
        seconds = _seconds_of_a_pass(trainer, parameters, augmentation)
    for module, state in zip(lent, states, strict=True):
        module.load_state_dict(state)
        module.zero_grad(set_to_none=True)
    share = affordable(*passes, seconds, trainer.seconds_left, trainer.steps_per_epoch, ways=ways)
    return passes if share >= 1 else shortened(*passes, share, trainer.steps_per_epoch)


def shortened(gated: float, after: float, share: float, steps_per_epoch: int) -> tuple[float, float]:
    """Return a share of the passes, with gates and after: the fewer steps, the more of them after.

    In few steps gates say little of channels, and what is lost is best taught again.

    Args:
        gated: passes with gates.
        after: passes after the decision.
        share: of all passes, that are to be made.
        steps_per_epoch: steps of one pass.
    """
    total = (gated + after) * share
    if after > 0:
        gated *= LEAST_GATED + (1 - LEAST_GATED) * min(1.0, total * steps_per_epoch / (2 * LEAST_STEPS))
    return gated * share, total - gated * share


def _seconds_of_a_pass(
    trainer: Trainer, parameters: Sequence[str], augmentation: Augmentation | None
) -> float:
    """Measure one pass over the training examples, and the look at the others after it."""
    per_epoch = trainer.steps_per_epoch
    began = 0.0
    for steps in (1, _TIMED_STEPS):
        began = time.monotonic()
        trainer.run(
            steps / per_epoch,
            lr=1e-9,
            optimizer="adam",
            parameters=parameters,
            augmentation=augmentation,
            progress=lambda fraction, words: None,
        )
    step = (time.monotonic() - began) / _TIMED_STEPS
    began = time.monotonic()
    trainer.evaluate()
    return step * per_epoch + time.monotonic() - began


def affordable(
    gated: float, after: float, pass_s: float, left_s: float, steps_per_epoch: int, *, ways: int = 2
) -> float:
    """Return the share of the passes that there is time for, at most 1.

    Args:
        gated: passes with gates.
        after: passes after the decision.
        pass_s: seconds of one pass.
        left_s: seconds that are left; infinite where time is not limited.
        steps_per_epoch: steps of one pass.
        ways: number of those to go on after the decision that are compared.
    """
    compared = ways * len(RATES) * min(1.0, PROBE_STEPS / steps_per_epoch) if after > 0 else 0.0
    passes = _USED * max(left_s, 0.0) / pass_s
    if passes >= gated + after + compared:
        return 1.0
    # Little time is not all taken by the comparison, which is then no longer than the passes after the
    # decision, and one step is made in any case.
    found = max(passes - compared, passes * _LEAST_TRAINED, 1 / steps_per_epoch)
    return min(found / (gated + after), 1.0)
