"""Which state recovery leaves: the best, or the last where they differ by chance alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from onnxcompress.engine.bottleneck.recovery import Start, _Averaging
from onnxcompress.engine.training.evaluation import Evaluation


def left(evaluations, higher, start=None):
    """Return the number of the epoch whose weights are left, 0 for the start; in epoch k they are k."""
    weights, coming = torch.zeros(1), iter(evaluations)
    job = SimpleNamespace(
        _others=list,
        _tensors=lambda: [weights],
        trainer=SimpleNamespace(steps_per_epoch=1),
        note=lambda passes, words: next(coming),
    )
    averaging = _Averaging(job, float(len(evaluations)), Start(0.1, start), higher)
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
