"""Lengths: how many passes over the data are made where nobody asked for a number.

What a network has lost comes back in steps, not in passes. Of few examples five passes are a few dozen steps,
which teach next to nothing; so there are more of them, as long as they cost little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnxcompress.core.model import Model
from onnxcompress.core.task import Task
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.measures.costs import count_macs

MOST_STEPS = 4000
"""Steps that are made of few examples, where they are cheap."""

WORK = 64e9
"""Multiply-accumulates, forward, of all steps together, up to which they are: half a minute or so. What a
step takes besides, :data:`MOST_STEPS` bounds."""

ROUND_STEPS, LEAST_ROUNDS = 100, 20
"""Steps of a round, in whole passes, and rounds of a training that has as many passes: the validation split
is looked at after each."""


def cheap_steps(
    model: Model, task: Task, input_shapes: Mapping[str, tuple[int, ...]], batch_size: int
) -> int:
    """Return how many steps cost little, at most :data:`MOST_STEPS`.

    Args:
        model: what is trained.
        task: the data; how it is fed tells how many examples the shapes hold.
        input_shapes: of a call.
        batch_size: examples of one step.
    """
    feeding = getattr(task.samples, "feeding", None) or Feeding(False, None)
    work = count_macs(model, input_shapes).total * batch_size / feeding.held(input_shapes)
    return MOST_STEPS if work * MOST_STEPS <= WORK else int(WORK / work)


def passes_of_a_round(passes: float, steps_per_epoch: int) -> int:
    """Return the passes between two looks at the validation split.

    Args:
        passes: of the whole training.
        steps_per_epoch: steps of one pass.

    >>> passes_of_a_round(10.0, 1000), passes_of_a_round(10.0, 6), passes_of_a_round(1000.0, 6)
    (1, 1, 17)
    """
    return max(1, min(math.ceil(ROUND_STEPS / steps_per_epoch), int(passes / LEAST_ROUNDS)))


def passes(usual: float, least_steps: int, steps_per_epoch: int) -> float:
    """Return the usual number of passes, or as many whole ones as make the least number of steps.

    >>> passes(5.0, 4000, 1000), passes(5.0, 4000, 19)
    (5.0, 211)
    """
    return max(usual, math.ceil(least_steps / steps_per_epoch))
