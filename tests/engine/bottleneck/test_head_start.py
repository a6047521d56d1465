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
from pruning_models import mlp, sum_of_towers, task_for

from onnxcompress.core.resources import Resources
from onnxcompress.engine.bottleneck import head_start
from onnxcompress.engine.bottleneck.head_start import FARTHEST, NOTHING, balances, give_head_start
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


def towers(quiet: float):
    """y = A Relu(loud x) + B Relu(quiet x), 16 units each, B smaller by a factor."""
    rng = np.random.default_rng(0)
    loud, silent = rng.normal(size=(16, 10)), rng.normal(size=(16, 10))
    a, b = rng.normal(size=(4, 16)), rng.normal(size=(4, 16)) * quiet
    tensors = {"loud": loud, "a": a, "quiet": silent, "b": b}
    return sum_of_towers(tensors)


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


sizes = st.just(0.0) | st.floats(1e-50, 1e30)
effects = st.lists(arrays(np.float64, st.integers(1, 6), elements=sizes), min_size=1, max_size=4)


@given(effects, st.data(), st.floats(1e-6, 1e6))
def test_the_order_of_effects_for_their_price_is_kept_over_all_groups(roots, data, scale):
    named = {str(k): r for k, r in enumerate(roots)}
    prices = {name: data.draw(st.floats(1e-3, 1e3)) for name in named}
    found = balances(named, prices)
    together = np.concatenate([found[name] for name in named])
    assert together.max() == 0
    assert together.min() >= NOTHING
    worth = np.concatenate([np.square(r) / prices[name] for name, r in named.items()])
    assert (np.diff(together[np.argsort(worth, kind="stable")]) >= -1e-9).all()
    assert not together[worth == 0].any() if not worth.any() else (together[worth == 0] == NOTHING).all()
    if all((r > 0).all() for r in roots):
        scaled = balances({n: r * scale for n, r in named.items()}, prices)
        dearer = balances(named, {n: p * scale for n, p in prices.items()})
        for name in named:
            assert scaled[name] == pytest.approx(found[name], abs=1e-6)
            assert dearer[name] == pytest.approx(found[name], abs=1e-6)


def test_where_nothing_has_an_effect_all_begin_alike():
    found = started(mlp(np.zeros((5, 6)), np.zeros((3, 5))), task_for((6,), 3, count=100))
    assert found == pytest.approx(np.full(5, START), abs=0.1)


@pytest.mark.parametrize("across", [True, False])
def test_few_steps_find_the_layer_that_can_be_spared_only_across_groups(across, monkeypatch):
    """Two towers of equal cost, one of which the output hardly hears."""
    if not across:
        alone = lambda roots, prices: {n: balances({n: r}, prices)[n] for n, r in roots.items()}  # noqa: E731
        monkeypatch.setattr(head_start, "balances", alone)
    model, task = towers(quiet=0.03), task_for((10,), 4, count=80)
    method = Vib(target="params=0.5", round_to=1, batch_size=64, epochs=1.0, after=0.0, augment=False)
    kept = method.plan(model, task, Resources(input_shapes={"x": (1, 10)})).keep
    spared = [int(kept[name].sum()) if name in kept else 16 for name in ("loud", "quiet")]
    assert 14 <= sum(spared) <= 17
    assert (spared[0] > 12 and spared[1] < 5) == across


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
