"""Ways to go on after the gates: a ranking from before training where few steps say little of channels."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from gated_nets import gated
from pruning_models import sum_of_towers, task_for

from onnxcompress.core.resources import Resources
from onnxcompress.engine.allocation import Costs, Target, allocate
from onnxcompress.engine.bottleneck import ways as module
from onnxcompress.engine.bottleneck.decision import Decision
from onnxcompress.engine.bottleneck.goals import Goal, measures
from onnxcompress.engine.bottleneck.job import Job, Wishes
from onnxcompress.engine.bottleneck.ways import FEWEST, HANDICAP, ways
from onnxcompress.methods.vib import Vib

COPIES = 8


def crowded():
    """y = A Relu(many x) + B Relu(few x): each of 8 units is there 8 times over, beside 16 single ones.

    The noise of one of 64 does little, that of the 16 does more; but most of the 64 cannot go at once.
    """
    rng = np.random.default_rng(0)
    tensors = {
        "many": np.repeat(rng.normal(size=(8, 10)), COPIES, 0),
        "a": np.repeat(rng.normal(size=(4, 8)), COPIES, 1) / COPIES,
        "few": rng.normal(size=(16, 10)),
        "b": 0.5 * rng.normal(size=(4, 16)),
    }
    return sum_of_towers(tensors)


def pressed(epochs: float):
    method = Vib(target="params=0.4", round_to=1, batch_size=32, epochs=epochs, after=epochs, augment=False)
    plan = method.plan(crowded(), task_for((10,), 4, count=200), Resources(input_shapes={"x": (1, 10)}))
    assert plan.training is not None
    assert plan.training.bottleneck is not None
    return plan, plan.training.bottleneck, plan.training.points[-1].compressed_loss


def test_few_steps_take_the_ranking_from_before_where_it_trains_better(monkeypatch):
    plan, bottleneck, loss = pressed(4.0)
    assert bottleneck.by == "taylor"
    assert any("too short to rank" in words for words in plan.warnings)
    assert {h.group: h.kept for h in bottleneck.histograms} == {
        name: int(mask.sum()) for name, mask in plan.keep.items()
    }, "what is told is what was cut"
    assert bottleneck.reached is not None
    assert bottleneck.reached <= 0.4
    # The gates' own order, which the same steps make worse.
    monkeypatch.setattr(module, "_before", lambda *given: None)
    plan, bottleneck, gates_loss = pressed(4.0)
    assert bottleneck.by == "alpha"
    assert not any("too short to rank" in words for words in plan.warnings)
    assert loss < 0.75 * gates_loss


def test_with_more_steps_the_gates_find_a_better_order():
    plan, bottleneck, _ = pressed(16.0)
    assert bottleneck.by == "alpha"
    assert not any("too short to rank" in words for words in plan.warnings)


def asked(share: float | None):
    """Return a job, its original weights, and roots of effects."""
    model = crowded()
    channels, groups, _, _ = gated(model, {"x": (1, 10)})
    wishes = Wishes(gamma=1e-3, epochs=1.0, after=1.0, lr=1e-3)
    goals = None if share is None else measures([Goal("params", share)], channels, groups, None)
    prices = {"many": 1.0, "few": 1.0}
    job = Job(channels, groups, prices, (), task_for((10,), 4), Resources(), wishes, goals)
    rng = np.random.default_rng(3)
    return job, {"a": np.ones(3)}, {g.name: rng.uniform(0.1, 1, g.size) for g in groups}


def test_the_ranking_from_before_is_that_of_joint_taylor_pruning():
    job, original, roots = asked(0.4)
    decision = Decision({}, 1.7, 1.0)
    first, second, third = ways(job, decision, original, roots, FEWEST)
    assert first.weights is None, "the graph stands ready"
    assert second.weights is third.weights is original
    assert (first.handicap, second.handicap, third.handicap) == (0, HANDICAP, 0)
    assert first.decision is third.decision is decision
    costs = Costs(job.channels.parameters, job.channels.macs)
    wanted = allocate(job.groups, roots, Target("params", 0.4), scope="joint", round_to=1, costs=costs)
    assert second.decision.by == "taylor"
    assert second.decision.share == pytest.approx(wanted.reached)
    assert second.decision.keep.keys() == wanted.keep.keys()
    for name, mask in wanted.keep.items():
        assert np.array_equal(second.decision.keep[name], mask)


@pytest.mark.parametrize(
    ("share", "steps", "known"),
    [(None, 10, True), (0.4, FEWEST + 1, True), (0.4, 10, False), (0.02, 10, True)],
)
def test_the_ranking_from_before_is_left_out(share, steps, known):
    """Without a target, after many steps, where no gradient told effects, and where it cannot do."""
    job, original, roots = asked(share)
    found = ways(job, Decision({}, 1.0), original, roots if known else {}, steps)
    assert [way.decision.by for way in found] == ["alpha", "alpha"]


def test_groups_that_no_gradient_reached_are_ranked_alike():
    job, original, roots = asked(0.4)
    job = replace(job, wishes=replace(job.wishes, round_to=1))
    _, way, _ = ways(job, Decision({}, 1.0), original, {"few": roots["few"]}, 10)
    kept = {name: int(mask.sum()) for name, mask in way.decision.keep.items()}
    assert kept.get("many", 64) not in (0, 64)
    assert kept.get("few", 16) > 0
