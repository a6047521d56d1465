"""The head start: the order in which gates begin, against closed forms and against beginning all alike."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

sys.path.insert(0, str(Path(__file__).parents[1]))
from gated_nets import RNG, gated
from pruning_models import mlp, task_for

from onnxcompress.core.resources import Resources
from onnxcompress.engine.bottleneck import head_start
from onnxcompress.engine.bottleneck.head_start import FARTHEST, ahead, give_head_start
from onnxcompress.engine.bottleneck.job import Job, Wishes
from onnxcompress.engine.bottleneck.steering import START
from onnxcompress.methods.vib import Vib


def started(model, task, steps=10):
    """Return log α of the only group's gates after the head start."""
    channels, groups, _, gates = gated(model, {"x": (1, 6)})
    wishes = Wishes(gamma=1e-3, epochs=10.0, after=0.0, lr=1e-3)
    job = Job(channels, groups, {g.name: 1.0 for g in groups}, (), task, Resources(), wishes)
    give_head_start(job, gates, passes=100.0, steps=steps)
    return np.log(gates.alphas()["w1"])


def test_gates_begin_in_the_order_of_what_noise_there_does_to_the_outputs_of_a_linear_network():
    """Of y = W₂ (g · W₁ x) with noise of variance s on g_i, y varies by s · E (W₁ x)_i² · |W₂ e_i|²."""
    first, second = RNG.normal(size=(9, 6)) * RNG.uniform(0.5, 2, (9, 1)), RNG.normal(size=(3, 9))
    task = task_for((6,), 3, count=300)
    hidden = task.samples.inputs(task.train)["x"] @ first.T
    curvature = np.log(np.square(hidden).mean(axis=0) * np.square(second).sum(axis=0))
    found = started(mlp(first, second, activation=None), task)
    assert np.median(found) == pytest.approx(START, abs=0.1)  # μ starts within 1 % of 1
    assert found - np.median(found) == pytest.approx(curvature - np.median(curvature), abs=0.4)
    assert np.ptp(curvature) > 2, "a case in which the order can be seen"


def test_a_channel_that_says_nothing_begins_as_low_as_any_may():
    first, second = RNG.normal(size=(9, 6)), RNG.normal(size=(3, 9))
    first[4] = 0
    found = started(mlp(first, second), task_for((6,), 3, labelled=True, count=300))
    assert np.argmin(found) == 4
    assert found[4] == pytest.approx(START - FARTHEST, abs=0.1)


def test_long_trainings_begin_all_but_alike():
    first, second = RNG.normal(size=(9, 6)), RNG.normal(size=(3, 9))
    second[:, 4] *= 1e-3
    model, task = mlp(first, second), task_for((6,), 3, count=100)
    short, long = started(model, task, 1000), started(model, task, 10_000)
    assert short.min() == pytest.approx(START - FARTHEST, abs=0.1)
    assert long.min() == pytest.approx(START - FARTHEST / 100, abs=0.1)


@given(arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1e30)), st.floats(1e-6, 1e6))
def test_the_order_is_kept_and_the_scale_of_the_loss_does_not_matter(roots, scale):
    found = ahead(roots)
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= FARTHEST
    order = np.argsort(roots, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    if (roots > 1e-100).all():
        assert ahead(roots * scale) == pytest.approx(found, abs=1e-6)


def test_where_no_gradient_arrives_all_begin_alike():
    assert (ahead(np.zeros(5)) == 0).all()


@pytest.mark.parametrize("helped", [True, False])
def test_few_steps_choose_well_only_with_it(helped, monkeypatch):
    """One step moves every gate by about the learning rate, whatever its channel is worth."""
    if not helped:
        monkeypatch.setattr(head_start, "FARTHEST", 0.0)
    idle, mistakes = np.arange(16) % 2 == 0, 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        first, second = rng.normal(size=(16, 10)), rng.normal(size=(4, 16)) * np.where(idle, 0.03, 1)
        method = Vib(target="params=0.5", round_to=1, batch_size=64, epochs=1.0, after=0.0, augment=False)
        task = task_for((10,), 4, count=80)
        kept = method.plan(mlp(first, second), task, Resources(input_shapes={"x": (1, 10)})).keep["w1"]
        assert 6 <= kept.sum() <= 8
        mistakes += int((kept & idle).sum())
    assert (mistakes > 0) != helped
