"""Retreat: where training does damage, it goes back to its best state and on with a lower learning rate.

Short runs, by which learning rates are chosen, may be too short to show that one is too high, where a pass
is a step or two.
"""

from __future__ import annotations

import math

from onnxcompress.engine.training.evaluation import Evaluation
from onnxcompress.engine.training.rates import ALIVE, AS_GOOD
from onnxcompress.engine.training.scoring import better, within_chance

DAMAGE = 3.0
"""A loss over this factor of the best is damage."""

SLOWER = 1 / 3
"""Factor of the learning rate then."""


def damaged(
    found: Evaluation,
    best: Evaluation,
    higher_is_better: bool | None,
    idle: float,
    hoped: float = math.inf,
) -> bool:
    """Return whether a state is so much worse than the best that going on from it is of no use.

    Args:
        found: the state.
        best: the best one.
        higher_is_better: direction of the metric; None: judged by the loss. With a metric it is no damage
            where the shares of right decisions are the same but for chance.
        idle: loss of giving one answer to everything. What loses more than that has nothing to show for it:
            shares that are the same, or even better, then say no more than that both are guessing.
        hoped: loss that a short run came to; to be far over it, and nearer to ``idle``, is damage as well:
            training started from a state that was bad enough to make anything look good.
    """
    if found.loss > max(AS_GOOD * hoped, hoped + ALIVE * (idle - hoped)) and hoped < idle < math.inf:
        return True
    if found.loss < idle and higher_is_better is not None:
        alike = within_chance(found, best, best.examples, higher_is_better)
        if alike or better(found, best, higher_is_better):
            return False
    return math.isnan(found.loss) or found.loss > DAMAGE * best.loss > 0
