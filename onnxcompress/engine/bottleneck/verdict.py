"""The verdict of one training: which channels stay by its α and its goals, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck.decision import Decision, decide, filled, narrowest, require
from onnxcompress.engine.bottleneck.job import Job

USUAL = (0.05, 200.0)
"""Thresholds on α that a target may need without doubt; 1 is what the theory says."""


def verdict(job: Job, alphas: Mapping[str, Array]) -> Decision:
    """Return which channels stay; raises UnsupportedError where a target cannot be met."""
    round_to = job.wishes.round_to
    found = decide(
        job.groups,
        alphas,
        job.wishes.threshold,
        round_to=round_to,
        share=job.share if job.target is not None else None,
        most=job.target or 1.0,
        few=job.quick_share is not None,
    )
    if job.target is None or job.share is None or job.quick_share is not None:
        return found
    return filled(found, job.groups, alphas, round_to=round_to, share=job.share, most=job.target)


def require_reachable(job: Job) -> None:
    """Raise UnsupportedError, before anything is trained, where the target is out of reach."""
    if job.target is not None and job.share is not None:
        require(job.share(narrowest(job.groups, job.wishes.round_to)), job.target)


def level(job: Job, alphas: Mapping[str, Array]) -> float:
    """Return log α of the channel at which the target is just met, as far as is quickly known."""
    found = decide(
        job.groups,
        alphas,
        job.wishes.threshold,
        round_to=job.wishes.round_to,
        share=job.quick_share or job.share,
        most=job.target or 1.0,
    )
    return math.log(max(found.threshold, 1e-30))


def doubts(job: Job, decision: Decision) -> tuple[str, ...]:
    """Return what the user must know of a verdict."""
    if job.target is None or USUAL[0] <= decision.threshold <= USUAL[1]:
        return ()
    return (
        f"the target was met only with a threshold of {decision.threshold:.3g} on α (usual is 1): "
        "more epochs, or another --gamma to start with, would separate the channels better",
    )
