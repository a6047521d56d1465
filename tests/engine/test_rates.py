"""Learning rates: which one short runs speak for, and that one at which a network dies is not taken."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from pruning_models import mlp, task_for

from onnxcompress.core.resources import Resources
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training import evaluation
from onnxcompress.engine.training.rates import largest_good, tried
from onnxcompress.engine.training.trainer import Trainer


@pytest.mark.parametrize(
    ("losses", "idle", "expected"),
    [
        ({0.001: 0.10, 0.003: 0.14, 0.01: 0.20}, 2.3, 0.003),
        ({0.001: 0.10, 0.003: 0.14, 0.01: 0.20}, float("inf"), 0.003),
        # One answer to everything costs 0.25: at 0.01 the network has died, at 0.003 nearly.
        ({0.001: 0.18, 0.003: 0.22, 0.01: 0.25}, 0.25, 0.001),
        ({0.001: 0.18, 0.003: 0.19, 0.01: 0.25}, 0.25, 0.003),
        # All diverged; all are dead.
        ({0.001: float("inf"), 0.003: float("inf")}, 0.25, 0.001),
        ({0.001: 0.3, 0.003: 0.29}, 0.25, 0.003),
        # A loss that may be negative.
        ({0.001: -2.0, 0.003: -1.5, 0.01: 0.0}, float("inf"), 0.001),
    ],
)
def test_the_largest_that_does_about_as_well(losses, idle, expected):
    assert largest_good(losses, idle) == expected


@given(st.dictionaries(st.floats(1e-5, 1), st.floats(0, 10), min_size=1, max_size=5), st.floats(0, 10))
def test_what_is_taken_is_never_dead_where_another_is_alive(losses, idle):
    taken, best = losses[largest_good(losses, idle)], min(losses.values())
    assert taken <= 1.5 * best or taken == best
    if best < idle:
        assert taken < idle


@pytest.mark.parametrize(
    ("before", "idle", "stops_after", "expected"),
    [
        (1.0, 2.3, 99, [3e-3, 1e-2]),
        (0.34, 2.3, 99, [3e-3, 1e-2]),  # 0.5 after a short run is not much more
        (0.3, 2.3, 99, [3e-3, 1e-2, 1e-3]),
        (0.0, 2.3, 99, [3e-3, 1e-2, 1e-3, 3e-4]),
        (1.0, 0.5, 99, [3e-3, 1e-2, 1e-3]),
        (0.0, 2.3, 1, [3e-3]),
    ],
)
def test_lower_rates_are_tried_while_all_do_damage(before, idle, stops_after, expected):
    runs = []

    def run(rate):
        runs.append(rate)
        return float("nan") if rate > 5e-3 else 100 * rate + 0.2

    found = tried((3e-3, 1e-2), before, idle, run, lambda: len(runs) >= stops_after)
    assert list(found) == pytest.approx(expected)
    assert all(np.isinf(loss) == (rate > 5e-3) for rate, loss in found.items())


@pytest.mark.parametrize("labelled", [True, False])
def test_one_answer_to_everything_costs_what_the_closed_form_says(labelled, monkeypatch):
    monkeypatch.setattr(evaluation, "_CHUNK", 7)  # several chunks, the last one smaller
    rng = np.random.default_rng(0)
    model = mlp(rng.normal(size=(9, 6)), rng.normal(size=(3, 9)))
    task = task_for((6,), 3, labelled=labelled, count=400)
    trainer = Trainer(TorchGraph(model), task, Resources())
    outputs = TorchGraph(model).run(task.samples.inputs(task.validation))["y"].astype(np.float64)
    mean = outputs.mean(axis=0)
    if labelled:
        labels = task.samples.labels(task.validation)
        answers = [share * mean for share in evaluation.ONE_ANSWER]
        expected = min(float((np.log(np.exp(a).sum()) - a[labels]).mean()) for a in answers)
    else:
        whole = TorchGraph(model).run(task.samples.inputs(np.sort(np.r_[task.train, task.validation])))["y"]
        expected = float(np.square(outputs - mean).mean() / whole.astype(np.float64).var())
    assert trainer.idle_loss() == pytest.approx(expected, rel=1e-4)
    assert trainer.evaluate().loss < expected or labelled
