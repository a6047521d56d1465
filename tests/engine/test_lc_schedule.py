"""The schedule that fits a task: the learning rate that a short run finds, on a network that is pretended."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from onnxcompress.engine.lc.schedule import LIMIT_SHARE, Wishes, fit_schedule

ONE_ANSWER = SimpleNamespace(loss=2.3, metric=0.1)
REFERENCE = SimpleNamespace(loss=0.01, metric=0.99)


class Pretended:
    """A trainer whose runs help up to a largest rate, and lead to one answer for all inputs above it."""

    higher_is_better = True
    metric_name = "top1"
    steps_per_epoch = 100

    def __init__(self, coarse_loss, largest, dead):
        self.dead = dead
        self.w = torch.nn.Parameter(torch.ones(4))
        self.graph = SimpleNamespace(weight=lambda name: self.w)
        self.coarse, self.largest, self.warnings = coarse_loss, largest, []
        self.after = REFERENCE

    def evaluate(self, examples=None, *, arrays=None):
        if arrays is None:
            return self.after
        return ONE_ANSWER if not arrays["w"].any() else SimpleNamespace(loss=self.coarse, metric=0.2)

    def idle_loss(self, limit):
        return ONE_ANSWER.loss

    def run(self, epochs, *, lr, **options):
        self.w.grad = torch.full((4,), 0.5)
        self.after = SimpleNamespace(loss=0.3, metric=0.9) if lr <= self.largest else self.dead
        return SimpleNamespace(stopped="done")


def rate(coarse_loss, largest, dead=ONE_ANSWER, labels=None):
    trainer = Pretended(coarse_loss, largest, dead)
    learner = SimpleNamespace(
        trainer=trainer,
        compressed=("w",),
        others=dict,
        momentum=0.9,
        augmentation=None,
        put=lambda arrays: None,
        score=lambda arrays: trainer.evaluate(arrays=arrays),
    )
    evaluate = trainer.evaluate

    def fresh(examples=None, *, arrays=None):
        found = evaluate(examples, arrays=arrays)
        if arrays is None:
            trainer.after = REFERENCE  # the reference is put back after each run
        return found

    trainer.evaluate = fresh
    samples = SimpleNamespace(labels=lambda indices: labels)
    task = SimpleNamespace(train=np.arange(50), seed=0, samples=samples)
    return fit_schedule(learner, task, {"w": np.ones(4, np.float32)}, Wishes(epochs=1.0)).lr


@pytest.mark.parametrize("coarse_loss", [1.5, 5.8])
def test_the_rate_is_a_quarter_of_the_largest_that_does_not_kill_the_network(coarse_loss):
    # 5.8: the 1-bit version is worse than one answer for all inputs, which therefore looks like success.
    for largest in (0.02, 0.3):
        assert LIMIT_SHARE * largest / 2 < rate(coarse_loss, largest) <= LIMIT_SHARE * largest


def test_the_answer_that_is_right_most_often_is_one_answer_all_the_same():
    # Without weights the other class is said: that the dead network is right more often shows no life.
    labels = np.r_[np.zeros(31, np.int64), np.ones(19, np.int64)]
    dead = SimpleNamespace(loss=1.2, metric=0.62)
    assert rate(1.5, 0.02, dead) > LIMIT_SHARE * 0.02
    assert LIMIT_SHARE * 0.01 < rate(1.5, 0.02, dead, labels) <= LIMIT_SHARE * 0.02
