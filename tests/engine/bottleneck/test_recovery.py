"""Which state recovery leaves: the best, or the last where they differ by chance alone."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from onnxcompress.engine.bottleneck.averaging import Average
from onnxcompress.engine.bottleneck.decision import Decision
from onnxcompress.engine.bottleneck.recovery import Start, _Averaging, planned
from onnxcompress.engine.bottleneck.ways import Way
from onnxcompress.engine.training.evaluation import Evaluation
from onnxcompress.engine.training.retreat import SLOWER


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_what_the_mean_begins_with_is_soon_forgotten(steps):
    value = torch.ones(1, dtype=torch.float64)
    mean = Average([value], horizon=1e9)
    value.zero_()
    for _ in range(steps):
        mean.add()
    # The product of k / (k + 9) for k from 1 on.
    assert float(mean.held[0]) == pytest.approx(1 / math.comb(steps + 9, 9), rel=1e-9)


def test_a_state_a_horizon_back_weighs_e_times_less():
    value = torch.zeros(1, dtype=torch.float64)
    mean = Average([value], horizon=50.0)
    for _ in range(2000):
        mean.add()
    value.fill_(1.0)
    mean.add()
    newest = float(mean.held[0])
    value.zero_()
    for _ in range(50):
        mean.add()
    assert newest == pytest.approx(1 / 50)
    assert float(mean.held[0]) == pytest.approx(newest / math.e, rel=0.02)


def averaged(weights, evaluations, higher, start, idle=math.inf):
    """Return what is looked at after every step, with these evaluations."""
    coming = iter(evaluations)
    job = SimpleNamespace(
        statistics=SimpleNamespace(parameters=list),
        averaged=lambda: [weights],
        trainer=SimpleNamespace(steps_per_epoch=1, idle_loss=lambda: idle),
        note=lambda passes, words: next(coming),
    )
    return _Averaging(job, float(len(evaluations)), Start(Way("", Decision({}, 1.0)), 0.1, start), higher)


def left(evaluations, higher, start=None):
    """Return the number of the epoch whose weights are left, 0 for the start; in epoch k they are k."""
    weights = torch.zeros(1)
    averaging = averaged(weights, evaluations, higher, start)
    for epoch in range(1, len(evaluations) + 1):
        weights.fill_(epoch)
        averaging.add_gradient()
    averaging.finish()
    return int(weights)


def scored(shares, examples):
    return [Evaluation(1 - share, share, examples) for share in shares]


@pytest.mark.parametrize(
    ("shares", "examples", "higher", "expected"),
    [
        # Of 100 examples two pictures are chance; of 100,000 they are 2,000.
        ([0.5, 0.92, 0.91, 0.90], 100, True, 4),
        ([0.5, 0.92, 0.91, 0.90], 100_000, True, 2),
        ([0.5, 0.92, 0.91, 0.60], 100, True, 2),
        ([0.5, 0.90, 0.91, 0.92], 100_000, True, 4),
        # The loss of an original that teaches is no share of decisions.
        ([0.5, 0.92, 0.91, 0.90], 100, None, 2),
    ],
)
def test_the_last_state_stays_unless_another_is_clearly_better(shares, examples, higher, expected):
    assert left(scored(shares, examples), higher) == expected


@pytest.mark.parametrize(("share", "expected"), [(0.95, 0), (0.91, 3), (0.5, 3)])
def test_training_that_makes_things_worse_leaves_the_start(share, expected):
    start = scored([share], 1000)[0]
    assert left(scored([0.88, 0.90, 0.905], 1000), True, start) == expected
    by_loss = Evaluation(1 - share, None, 1000)
    later = [Evaluation(loss, None, 1000) for loss in (0.12, 0.1, 0.095)]
    assert left(later, None, by_loss) == (0 if share > 0.905 else 3)


def test_an_error_is_no_share_of_right_decisions():
    """Mean square errors lie between 0 and 1, too, and twice the best one is no chance."""
    errors = [Evaluation(error, error, 50) for error in (0.1, 0.04, 0.05, 0.07)]
    assert left(errors, False) == 2
    assert rates([0.5, 4.0, 0.4], higher=False, metric=0.1)[0][-1] == pytest.approx(SLOWER)


def rates(losses, higher=None, metric=None, idle=math.inf):
    """Return the learning rate of each epoch, as share of the plan's, and the weights after it."""
    weights, found, seen = torch.zeros(1), [], []
    evaluations = [Evaluation(loss, metric, 1000) for loss in losses]
    averaging = averaged(weights, evaluations, higher, Evaluation(1.0, metric, 1000), idle)
    for epoch in range(1, len(losses) + 1):
        seen.append(averaging.rate(0.5) / planned(0.5))
        weights.fill_(epoch)
        averaging.add_gradient()
        found.append(float(weights))
    return seen, found, averaging


def test_damage_leads_back_to_the_best_state_with_a_lower_rate():
    seen, weights, averaging = rates([0.5, 1.6, 0.4, float("nan"), 0.3, 0.2])
    assert seen == pytest.approx([1, 1, SLOWER, SLOWER, SLOWER**2, SLOWER**2])
    # In epoch k the weights are k, and with so few steps the mean is the last state: the best was the first,
    # then the third, and without damage the weights stay what they are.
    assert weights == pytest.approx([1, 1, 3, 3, 5, 6])
    assert averaging.state()[1]["factor"] == pytest.approx(SLOWER**2)


def test_a_hump_and_an_equal_share_of_right_decisions_are_no_damage():
    assert rates([0.5, 1.4, 0.4, 1.1])[0] == [1, 1, 1, 1]
    assert rates([0.5, 1.9, 0.4], higher=True, metric=0.9)[0] == [1, 1, 1]


def test_equal_shares_at_a_loss_over_that_of_one_answer_are_damage():
    seen, _, averaging = rates([0.5, 1.9, 0.4], higher=True, metric=0.1, idle=1.5)
    assert seen == pytest.approx([1, 1, SLOWER])
    averaging.finish()
