"""Latency of a cut, measured while a method looks for the one that meets a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from onnxcompress import bench, exporter, surgery
from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model
from onnxcompress.encodings.lowrank import LowRank
from onnxcompress.engine import feeds
from onnxcompress.engine.channels import analyse
from onnxcompress.pipeline._original import Original
from onnxcompress.surgery.factoring import factor

BUDGET_S = 2.0
"""Seconds that one measurement takes."""


def latency_of_cuts(
    original: Original, seed: int, threads: int, budget_s: float = BUDGET_S
) -> Callable[[Model, Mapping[str, Array]], float]:
    """Return what measures a cut: the time of one inference after it, divided by the original model's.

    Layers whose weights are low-rank are measured as the two layers they become.

    Args:
        original: the model as it came.
        seed: of the input and of the order of measurements.
        threads: CPU threads of onnxruntime.
        budget_s: seconds one measurement takes.
    """

    @cache
    def reference() -> bytes:
        return exporter.dense_bytes(original.model)

    def latency(model: Model, keep: Mapping[str, Array]) -> float:
        cut = surgery.cut(analyse(model, original.shapes), keep).model if keep else model
        if any(isinstance(encoding, LowRank) for encoding in cut.encodings.values()):
            cut = factor(cut).model
        single = feeds.random_feeds(
            original.session.inputs, seed=seed, shapes=original.shapes, model=original.model
        )[0]
        found = bench.compare_latency(
            {"before": reference(), "after": exporter.dense_bytes(cut)},
            single,
            threads=threads,
            seed=seed,
            budget_s=budget_s,
            memory=False,
        )
        return found.ratios[0].ratio

    return latency
