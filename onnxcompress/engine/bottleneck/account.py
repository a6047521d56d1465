"""The account of a bottleneck for the report: histograms of α, the path, one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxcompress.core.bottleneck import AlphaHistogram, Bottleneck, PathPoint
from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck.decision import Decision
from onnxcompress.engine.bottleneck.goals import Measures

_EDGES = tuple(float(v) for v in np.linspace(-10, 16, 53))
"""Of log α, natural."""


def account(
    groups: Sequence[Group],
    alphas: Mapping[str, Array],
    decision: Decision,
    path: Sequence[PathPoint],
    measures: Measures | None,
) -> Bottleneck:
    """Return what is told of a gated training."""
    histograms = []
    for group in groups:
        logs = np.clip(np.log(alphas[group.name]), _EDGES[0], _EDGES[-1])
        counts, _ = np.histogram(logs, _EDGES)
        mask = decision.keep.get(group.name)
        kept = group.size if mask is None else int(mask.sum())
        histograms.append(AlphaHistogram(group.name, group.size, kept, tuple(int(c) for c in counts)))
    found = Bottleneck(decision.threshold, _EDGES, tuple(histograms), tuple(path), by=decision.by)
    if measures is None:
        return found
    goals = measures.reached(decision.keep)
    return replace(found, target=measures.most, reached=decision.share, goals=goals)


def told(groups: Sequence[Group], keep: Mapping[str, Array]) -> str:
    """Return how many channels stay, in words."""
    total = sum(g.size for g in groups)
    kept = sum(int(keep[g.name].sum()) if g.name in keep else g.size for g in groups)
    return f"{kept} of {total} gated channels stay"
