"""Statistics of normalisations where a batch takes several calls of the graph, or a call has one example."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from small_models import model_of, task_of

from onnxcompress.core.resources import Resources
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.execution import MOST_AT_ONCE
from onnxcompress.engine.training.trainer import Trainer

RNG = np.random.default_rng(0)
START = {"s": np.ones(3), "b": np.zeros(3), "m": np.full(3, 7.0), "v": np.full(3, 50.0)}
WEIGHTS = {name: array.astype(np.float32) for name, array in START.items()}
NORMALISE = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["h"])


@pytest.mark.parametrize("fixed", [None, 4])
def test_each_call_of_a_batch_counts(fixed):
    """Statistics move at every call: what was stored before must not count, and no variance be negative."""
    length = fixed or "N"
    mix = [helper.make_node("ReduceMean", ["h"], ["r"], axes=[0]), helper.make_node("Sub", ["h", "r"], ["y"])]
    alone = [helper.make_node("Identity", ["h"], ["y"])]
    nodes = [NORMALISE, *(mix if fixed else alone)]
    model = model_of(nodes, {"x": [length, 3]}, {"y": [length, 3]}, WEIGHTS)
    x = (RNG.standard_normal((1600, 3)) * [1, 2, 3] + 4).astype(np.float32)
    task = task_of(model, {"x": x})
    trainer = Trainer(TorchGraph(model), task, Resources(), batch_size=MOST_AT_ONCE + 88, bn="train")
    trainer.estimate_statistics(60)
    found = trainer.graph.arrays(["m", "v"])
    order = np.random.default_rng([task.seed, 0xB4]).permutation(task.train)
    seen = x[order[: len(order) // trainer.batch_size * trainer.batch_size]].astype(np.float64)
    np.testing.assert_allclose(found["m"], seen.mean(0), rtol=1e-4)
    within = np.mean([part.var(0) for part in np.split(seen, len(seen) // 4)], 0) if fixed else seen.var(0)
    np.testing.assert_allclose(found["v"], within, rtol=1e-2)


@pytest.mark.parametrize("single", [True, False])
def test_of_calls_of_one_example_no_statistics_are_taken(single):
    """A number beside the picture makes every example a call: of one picture it would be another network."""
    nodes = [NORMALISE, helper.make_node("Mul", ["h", "k"], ["y"])]
    length, inputs = (1, []) if single else ("N", ["N", 1, 1, 1])
    model = model_of(nodes, {"x": [length, 3, 5, 5], "k": inputs}, {"y": [length, 3, 5, 5]}, WEIGHTS)
    x = RNG.standard_normal((40, *([1] if single else []), 3, 5, 5)).astype(np.float32)
    k = np.ones((40, *([] if single else [1, 1, 1])), np.float32)
    trainer = Trainer(
        TorchGraph(model), task_of(model, {"x": x, "k": k}), Resources(), batch_size=8, bn="train"
    )
    assert trainer.alone == single
    trainer.run(1, lr=1e-3)
    moved = not np.array_equal(trainer.graph.arrays(["v"])["v"], WEIGHTS["v"])
    assert moved == trainer.moving == (not single)
