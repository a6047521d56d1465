"""Head start: gates of a group begin in the order of their channels' effects, not all alike.

Where a gate and the loss are in balance, a little more noise costs the loss what it saves of the information
term: ½ h_i = γ_i/(σ_i² (1 + σ_i²)) (eq. 10 at μ = 1), h_i being the curvature of the loss along gate i. Of
small variances α_i = 1/σ_i² is in proportion to h_i. It is estimated once, before training, by the mean
square of the gate's gradient (:mod:`onnxcompress.engine.importance.taylor`).

Only the differences of log α_i within a group are taken from it; the median channel of each group begins
where all would begin otherwise. How much each group is to keep is left to training: to first order groups
cannot be compared, for the loss of one that is nearly closed has nothing to do with its beginning. And where
training is long, next to nothing is taken from it: gates have the time to find their order, and that of the
untrained network is no better to begin with.
"""

from __future__ import annotations

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck.gates import LOG_VARIANCE, Gates
from onnxcompress.engine.bottleneck.job import Job
from onnxcompress.engine.importance._base import Evidence
from onnxcompress.engine.importance.taylor import effects

FARTHEST = 4.0
"""Largest difference of a gate's first log α from that of its group's median, in ``FEW`` steps or fewer."""

FEW = 1000
"""Steps of a training that is short; in one of twice as many, the largest difference is a quarter."""

_SHARE, _LEAST = 0.1, 32
"""Examples looked at, as share of those that training with gates will look at; so many at least."""


def give_head_start(job: Job, gates: Gates, *, passes: float, steps: int) -> None:
    """Set log σ² of fresh gates by the curvature of the loss; groups without a gradient stay as they are.

    Args:
        job: what is to be gated.
        gates: the gates.
        passes: over the training examples that are to follow, which bound the effort.
        steps: that these passes are made of.
    """
    task = job.task
    evidence = Evidence(job.channels, task, job.resources.device, task.seed)
    looks = max(_LEAST, round(_SHARE * passes * len(task.train)))
    roots, reached = effects(job.groups, evidence, looks)
    farthest = FARTHEST * min(1.0, FEW / max(1, steps)) ** 2
    for name in sorted(reached):
        if np.isfinite(roots[name]).all():
            gates[name].start(LOG_VARIANCE - ahead(roots[name], farthest))


def ahead(roots: Array, farthest: float = FARTHEST) -> Array:
    """Return how much larger log α of each channel is than the median's, from the root of its curvature."""
    balance: Array = 2 * np.log(np.maximum(roots, np.finfo(float).tiny))
    found: Array = np.clip(balance - np.median(balance), -farthest, farthest)
    return found
