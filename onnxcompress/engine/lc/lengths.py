"""Lengths: how many L steps are made, and how many SGD steps in each, where time is limited.

A path that is broken off has weights that are far from compressed, and what they have learned is lost: a
shorter one that comes to its end is worth far more. L steps get shorter before there are fewer of them, since
codes are decided slowly, in a narrow range of the penalty (see :mod:`~onnxcompress.engine.lc.schedule`).
"""

from __future__ import annotations

LEAST_L_STEPS = 4
"""L steps that are made in any case, unless time runs out."""

_LEAST_SGD_STEPS = 5
"""SGD steps of an L step, before there are fewer L steps."""

_USED = 0.8
"""Part of the time that is left that is planned for: whatever else runs here takes some."""


def affordable(
    wished: tuple[int, int], seconds: tuple[float, float], left_s: float, *, least_steps: int = LEAST_L_STEPS
) -> tuple[int, int]:
    """Return the number of L steps, and of SGD steps in each, that there is time for.

    Args:
        wished: L steps, and SGD steps in each.
        seconds: of an SGD step, and of what else an L step takes: the C step, the look at what came of it.
        left_s: seconds that are left.
        least_steps: no fewer L steps are made.
    """
    (steps, sgd_steps), (step_s, around_s) = wished, seconds
    used_s = _USED * max(left_s, 0.0)
    if steps * (sgd_steps * step_s + around_s) <= used_s:
        return steps, sgd_steps
    # Less than half of the time is for what is around the SGD steps.
    shortest = min(sgd_steps, max(_LEAST_SGD_STEPS, round(around_s / step_s)))
    steps = min(steps, max(least_steps, int(used_s / (shortest * step_s + around_s))))
    return steps, max(1, min(sgd_steps, int((used_s / steps - around_s) / step_s)))
