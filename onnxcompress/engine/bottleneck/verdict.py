"""The verdict of one training: which channels stay by its α and its goals, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck.decision import Decision, decide, filled, narrowest
from onnxcompress.engine.bottleneck.job import Job
from onnxcompress.engine.widths import Limit, OutOfReachError

USUAL = (0.05, 200.0)
"""Thresholds on α that a target may need without doubt; 1 is what the theory says."""


def verdict(job: Job, alphas: Mapping[str, Array]) -> Decision:
    """Return which channels stay; raises UnsupportedError where a target cannot be met."""
    limit, round_to = limit_of(job), job.wishes.round_to
    found = decide(job.groups, alphas, job.wishes.threshold, round_to=round_to, limit=limit)
    return found if limit is None else filled(found, job.groups, alphas, round_to=round_to, limit=limit)


def require_reachable(job: Job) -> None:
    """Raise UnsupportedError, before anything is trained, where the target is out of reach."""
    limit = limit_of(job)
    if limit is not None:
        round_to = job.wishes.round_to
        limit.require(limit.share(narrowest(job.groups, round_to)), round_to)


def level(job: Job, alphas: Mapping[str, Array]) -> float:
    """Return log α of the channel at which the target is just met, as far as is quickly known."""
    limit = limit_of(job)
    if limit is not None and job.measures is not None and job.measures.quick is not None:
        limit = replace(limit, share=job.measures.quick, measured=False)
    try:
        found = decide(job.groups, alphas, job.wishes.threshold, round_to=job.wishes.round_to, limit=limit)
        threshold = found.threshold
    except OutOfReachError:  # by what stands for a latency only: the latency itself was within reach
        threshold = max(float(alpha.max()) for alpha in alphas.values())
    return math.log(max(threshold, 1e-30))


def limit_of(job: Job) -> Limit | None:
    """Return what a cut has to keep to; None without a target."""
    found = job.measures
    if found is None:
        return None
    timed, words = found.quick is not None, f"the target {found.asked}"
    return Limit(found.share, found.most, words, blocks_first=timed, measured=timed)


def doubts(job: Job, decision: Decision) -> tuple[str, ...]:
    """Return what the user must know of a verdict."""
    if decision.by == "taylor":
        return (
            "training with gates was too short to rank the channels: those that a ranking before it keeps "
            "(Taylor importance) trained better in a trial, and stay; more --epochs help the gates",
        )
    least = narrowest(job.groups, job.wishes.round_to)
    kept = [decision.keep.get(group.name) for group in job.groups]
    if job.measures is None and all(
        mask is not None and mask.sum() == least[group.name].sum()
        for group, mask in zip(job.groups, kept, strict=True)
    ):
        return (
            "every group of channels fell to the least width that it may have: --gamma is too large for this "
            "model, or --threshold too high; a --target says what is to stay",
        )
    if job.measures is None or USUAL[0] <= decision.threshold <= USUAL[1]:
        return ()
    return (
        f"the target was met only with a threshold of {decision.threshold:.3g} on α (usual is 1): "
        "more epochs, or another --gamma to start with, would separate the channels better",
    )
