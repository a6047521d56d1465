"""Head start: gates begin in the order of their channels' effects, not all alike.

Where a gate and the loss are in balance, a little more noise costs the loss what it saves of the information
term: ½ h_ij = γ_i/(σ_ij² (1 + σ_ij²)) (eq. 10 at μ = 1), h_ij being the curvature of the loss along gate j of
group i. Of small variances α = 1/σ² is in proportion to h_ij/γ_i. The curvature is estimated once, before
training, by the mean square of the gate's gradient (:mod:`onnxcompress.engine.importance.taylor`): with
labels that of the loss and, as much, that of the outputs, every example alike.

Only differences of log α are taken from it; the median channel of all groups begins where all would begin
otherwise, and no other so far from it that the loss could not change its fate. And where training is long,
next to nothing is taken from it: gates have the time to find their order, and that of the untrained network
is no better to begin with.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck.gates import LOG_VARIANCE, Gates
from onnxcompress.engine.bottleneck.job import Job
from onnxcompress.engine.importance._base import Evidence
from onnxcompress.engine.importance.taylor import effects

FARTHEST = 8.0
"""Largest difference of a gate's first log α from the median channel's, in ``FEW`` steps or fewer."""

FEW = 1000
"""Steps of a training that is short; in one of twice as many, the largest difference is a quarter."""

_SHARE, _LEAST, _LEAST_HURRIED = 0.1, 32, 8
"""Examples looked at, as share of those that training with gates will look at; so many at least,
the second where there is no time for all."""

NOTHING = -40.0
"""A log α so far below the largest is that of a channel without any effect."""


def give_head_start(
    job: Job, gates: Gates, *, passes: float, steps: int, hurried: bool = False
) -> dict[str, Array]:
    """Set log σ² of fresh gates by the estimated curvature; groups without a gradient stay as they are.

    Returns group name -> root of the curvature along each gate, of the other groups.

    Args:
        job: what is to be gated.
        gates: the gates.
        passes: over the training examples that are to follow, which bound the effort.
        steps: that these passes are made of.
        hurried: whether there is no time for all that was asked for.
    """
    task = job.task
    evidence = Evidence(job.channels, task, job.resources.device, task.seed)
    looks = max(_LEAST_HURRIED if hurried else _LEAST, round(_SHARE * passes * len(task.train)))
    roots, reached = effects(job.groups, evidence, looks)
    known = {name: roots[name] for name in sorted(reached) if np.isfinite(roots[name]).all()}
    if not known:
        return {}
    found = balances(known, job.weights)
    farthest = FARTHEST * min(1.0, FEW / max(1, steps)) ** 2
    middle = float(np.median(np.concatenate(list(found.values()))))
    for name, log_alpha in found.items():
        gates[name].start(LOG_VARIANCE - np.clip(log_alpha - middle, -farthest, farthest))
    return known


def balances(roots: Mapping[str, Array], weights: Mapping[str, float]) -> dict[str, Array]:
    """Return log α of every channel where the gates are in balance, up to one constant; at most 0.

    Args:
        roots: group name -> root of the curvature along each gate.
        weights: group name -> w_i of γ_i = γ · w_i.
    """
    with np.errstate(divide="ignore"):  # no effect at any price: −∞
        found = {name: 2 * np.log(r) - np.log(weights[name]) for name, r in roots.items()}
    top = max(float(log_alpha.max()) for log_alpha in found.values())
    if top == -np.inf:  # none has an effect: there is no order
        return {name: np.zeros_like(r) for name, r in roots.items()}
    return {name: np.maximum(log_alpha - top, NOTHING) for name, log_alpha in found.items()}
