"""Latency of a cut, as a method may ask for it: of the whole and of a quarter of a wide network."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from pruning_models import mlp

from onnxcompress.encodings.lowrank import FixedRank
from onnxcompress.engine.proto import to_proto
from onnxcompress.pipeline._data import Given, with_sizes
from onnxcompress.pipeline._latency import latency_of_cuts
from onnxcompress.pipeline._original import open_original

RNG = np.random.default_rng(0)


def opened(model):
    """Return the model as a run opens it, with one example a call."""
    return with_sizes(open_original(to_proto(model.ir), 1), {"x": (1, 256)}, Given())


def test_a_quarter_of_the_work_takes_less_time():
    wide = mlp(RNG.normal(size=(2048, 256)), RNG.normal(size=(256, 2048)))
    original = opened(wide)
    latency = latency_of_cuts(original, seed=0, threads=1, budget_s=0.5)
    assert 0.5 < latency(original.model, {}) < 2
    assert latency(original.model, {"w1": np.arange(2048) < 128}) < 0.7


def test_a_low_rank_is_measured_as_two_layers():
    wide = mlp(RNG.normal(size=(2048, 256)), RNG.normal(size=(256, 2048)))
    original = opened(wide)
    latency = latency_of_cuts(original, seed=0, threads=1, budget_s=0.5)
    names = list(original.model.weights)
    factors = {n: FixedRank(16).project([original.model.array(n)])[0] for n in names if "b" not in n}
    assert latency(original.model.with_encodings(factors, "lc-lowrank"), {}) < 0.7
