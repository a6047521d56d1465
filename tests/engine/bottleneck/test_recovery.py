"""Which state recovery leaves: the best, or the last where they differ by chance alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from onnxcompress.engine.bottleneck.recovery import _Averaging
from onnxcompress.engine.training.evaluation import Evaluation


def left(evaluations, higher):
    """Return the number of the epoch whose weights are left; in epoch k they are k, one step each."""
    weights, coming = torch.zeros(1), iter(evaluations)
    job = SimpleNamespace(
        _others=list,
        _tensors=lambda: [weights],
        trainer=SimpleNamespace(steps_per_epoch=1),
        note=lambda passes, words: next(coming),
    )
    averaging = _Averaging(job, float(len(evaluations)), 0.1, higher)
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
