"""Ways to go on after the gates were trained: which channels stay, and with which weights.

The weights trained with gates are used to the loss of channels; the original ones still know what few
examples cannot teach again. And where there were next to no steps, gates have not found their order: the
noise of one channel at a time says little of what the loss of most of a layer does, and weights had no time
to get used to it. A ranking from before the training, fair between layers, may then be the better one: the
channels of the largest Taylor importance, relative to their layer's mean, for their price. It has to be so by
a margin: a short trial flatters what was cut with the least care for what training could still find.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.engine.allocation import ranked
from onnxcompress.engine.bottleneck.decision import Decision
from onnxcompress.engine.bottleneck.job import Job
from onnxcompress.engine.bottleneck.verdict import limit_of
from onnxcompress.engine.widths import OutOfReachError, masks

FEWEST = 128
"""Steps with gates up to which a ranking from before is tried. On CIFAR-10, after 340 and 680, what won the
trial ended worse."""

HANDICAP = 0.05
"""Share by which its loss after the trial has to be less than the others'."""


@dataclass(frozen=True)
class Way:
    """One way: which channels stay, and the weights it begins with; None: those that the graph has.

    ``handicap`` is the share of its loss that is added where ways are compared.
    """

    words: str
    decision: Decision
    weights: Mapping[str, Array] | None = None
    handicap: float = 0.0


def ways(
    job: Job, decision: Decision, original: Mapping[str, Array], roots: Mapping[str, Array], steps: int
) -> list[Way]:
    """Return the ways to compare, the one that is there first.

    Args:
        job: what was asked for.
        decision: by α, for which the graph stands ready.
        original: the weights before training.
        roots: group name -> Taylor importance of its channels before training, where it is known.
        steps: of the training with gates.
    """
    found = [Way("the weights trained with gates", decision)]
    before = _before(job, decision, roots) if steps <= FEWEST else None
    if before is not None:
        found.append(
            Way("the original weights, channels ranked before training,", before, original, HANDICAP)
        )
    found.append(Way("the original weights", decision, original))
    return found


def _before(job: Job, decision: Decision, roots: Mapping[str, Array]) -> Decision | None:
    """Return the decision by Taylor importance; None without a target, or where it cannot meet the target."""
    limit = limit_of(job)
    if limit is None or not roots:
        return None
    scores = {g.name: roots.get(g.name, np.ones(g.size)) for g in job.groups}
    try:
        found = ranked(job.groups, scores, job.weights, round_to=job.wishes.round_to, limit=limit)
    except OutOfReachError:  # it empties no layer, which gates may all but do
        return None
    return Decision(masks(job.groups, scores, found.widths), decision.threshold, found.share, "taylor")
