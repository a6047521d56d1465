"""The schedule that fits a task: the learning rate that a short run finds, on a network that is pretended."""

import itertools
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from onnxcompress.engine.lc.lengths import affordable
from onnxcompress.engine.lc.probe import LIMIT_SHARE
from onnxcompress.engine.lc.schedule import (
    FIRST_PULL,
    LAST_PULL,
    RIGID,
    SEARCH_SHARE,
    TURN,
    Wishes,
    fit_schedule,
)

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
        return SimpleNamespace(stopped="done", epochs=epochs)


def learner_of(trainer):
    return SimpleNamespace(
        trainer=trainer,
        compressed=("w",),
        others=dict,
        momentum=0.9,
        augmentation=None,
        put=lambda arrays: None,
        score=lambda arrays: trainer.evaluate(arrays=arrays),
    )


TASK = SimpleNamespace(train=np.arange(50), seed=0, samples=SimpleNamespace(labels=lambda indices: None))


def rate(coarse_loss, largest, dead=ONE_ANSWER, labels=None):
    trainer = Pretended(coarse_loss, largest, dead)
    learner = learner_of(trainer)
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


class Clock:
    """A clock that is told how much time goes by."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Slow(Pretended):
    """Each SGD step takes a tenth of a second; the largest rate leads to the least loss."""

    def __init__(self, clock, largest):
        super().__init__(1.5, largest, ONE_ANSWER)
        self.clock, self.rates, self.sgd_steps = clock, [], 0

    def run(self, epochs, *, lr, until, **options):
        began, outcome = self.clock.now, super().run(epochs, lr=lr)
        made = round(min(epochs * self.steps_per_epoch, max(0, (until - began) / 0.1 + 0.49)))
        self.clock.now += 0.1 * made
        self.sgd_steps += made
        self.rates.append(lr)
        whole = made == round(epochs * self.steps_per_epoch)
        if lr < 1e-9:
            self.after = REFERENCE
        elif lr <= self.largest:
            self.after = SimpleNamespace(loss=0.3 + math.log(self.largest / lr) / 100, metric=0.9)
        return SimpleNamespace(stopped=outcome.stopped if whole else "time", epochs=made / 100)

    def evaluate(self, examples=None, *, arrays=None):
        found = super().evaluate(examples, arrays=arrays)
        self.after = REFERENCE if arrays is None else self.after  # the reference is put back after each run
        return found


def fitted(monkeypatch, seconds, wishes=None, largest=0.3):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    trainer = Slow(clock, largest)
    found = fit_schedule(
        learner_of(trainer), TASK, {"w": np.ones(4, np.float32)}, wishes or Wishes(), time_s=seconds
    )
    return found, trainer, clock.now


@pytest.mark.parametrize("seconds", [2.0, 10.0, 40.0, 100.0, 500.0])
def test_search_and_path_take_no_more_time_than_there_is(monkeypatch, seconds):
    schedule, trainer, searched = fitted(monkeypatch, seconds)
    # Beside a quarter of the time: the steps that are timed, and that of the gradient.
    assert searched <= SEARCH_SHARE * seconds + 0.1 * 6
    per_path = schedule.steps * schedule.epochs * trainer.steps_per_epoch * 0.1
    assert searched + per_path <= seconds
    assert per_path > 0.6 * (seconds - searched)  # and hardly more is left out than has to be
    assert schedule.epochs * schedule.steps < schedule.wished == 40 * 5.0
    travelled = schedule.lr * schedule.epochs * trainer.steps_per_epoch / (1 - 0.9)
    assert schedule.mu(0) * travelled == pytest.approx(FIRST_PULL)
    assert schedule.mu(schedule.steps - 1) * travelled == pytest.approx(LAST_PULL)


@pytest.mark.parametrize("steps", [41, 60, 80, 160])
def test_what_long_paths_have_more_are_slow_steps_while_codes_are_decided(monkeypatch, steps):
    schedule, trainer, _ = fitted(monkeypatch, 1e6, Wishes(steps=steps))
    travelled = schedule.lr * schedule.epochs * trainer.steps_per_epoch / (1 - 0.9)
    pulls = [schedule.mu(k) * travelled * schedule.lr_decay**k for k in range(steps)]
    assert pulls[0] == pytest.approx(FIRST_PULL)
    assert pulls[-21] == pytest.approx(TURN)
    assert pulls[-1] == pytest.approx(RIGID)
    growth = [b / a for a, b in itertools.pairwise(pulls)]
    np.testing.assert_allclose(growth[:-20], (TURN / FIRST_PULL) ** (1 / (steps - 21)))
    np.testing.assert_allclose(growth[-20:], (RIGID / TURN) ** (1 / 20))


def test_a_path_one_step_longer_than_usual_is_much_like_the_usual_one(monkeypatch):
    usual, longer = (fitted(monkeypatch, 1e6, Wishes(steps=n))[0] for n in (40, 41))
    for part in (0, 0.25, 0.5, 0.75, 1):
        a, b = (math.log(s.mu(round(part * (s.steps - 1)))) for s in (usual, longer))
        assert a == pytest.approx(b, abs=0.15)


def test_a_search_in_a_hurry_comes_near_the_largest_rate_and_never_takes_one_that_kills(monkeypatch):
    for largest in (0.02, 0.3):
        found = fitted(monkeypatch, 500.0, largest=largest)[0].lr
        assert largest / 8 <= found <= largest
    # Without any time for a run there is a first guess, which has not been tried.
    schedule, trainer, _ = fitted(monkeypatch, 1.0)
    assert schedule.lr > 0
    assert schedule.lr not in trainer.rates


def test_with_time_enough_the_rate_is_searched_and_the_path_made_as_without_limit(monkeypatch):
    schedule, trainer, _ = fitted(monkeypatch, 1e6)
    assert (schedule.steps, schedule.epochs) == (40, 5.0)
    assert schedule.wished == 40 * 5.0
    assert schedule.lr == rate(1.5, 0.3)
    timed = len([r for r in trainer.rates if r < 1e-9])
    assert timed == 3  # two runs that are timed, one for the gradient


def test_what_the_user_set_gives_way_last(monkeypatch):
    assert fitted(monkeypatch, 20.0)[0].steps < 40
    assert fitted(monkeypatch, 20.0, Wishes(steps=40))[0].steps == 40
    assert fitted(monkeypatch, 20.0, Wishes(growth=1.1))[0].steps == 40
    assert fitted(monkeypatch, 20.0, Wishes(lr=0.07))[0].lr == 0.07


def test_l_steps_get_shorter_before_there_are_fewer():
    assert affordable((40, 100), (1.0, 0.0), 1e9) == (40, 100)
    assert affordable((40, 100), (1.0, 0.0), 1000.0) == (40, 20)
    assert affordable((40, 100), (1.0, 0.0), 100.0) == (16, 5)
    # What is around L steps takes no more than about half of the time.
    steps, sgd_steps = affordable((40, 100), (1.0, 20.0), 1000.0)
    assert steps * 20.0 <= 400 < steps * (sgd_steps + 20.0) <= 800
    # What cannot be done is not made less than a path.
    assert affordable((40, 100), (math.inf, 0.1), 5.0) == (4, 1)
    assert affordable((40, 100), (1.0, 0.1), -5.0) == (4, 1)
    assert affordable((2, 100), (1.0, 0.1), 0.0) == (2, 1)


def test_less_than_half_of_the_time_is_for_what_is_around_the_steps():
    # 400 s are used: 20 L steps of 10 steps of 1 s, with 10 s around them.
    assert affordable((40, 100), (1.0, 10.0), 500.0) == (20, 10)
    assert affordable((40, 100), (1.0, 1.0), 500.0) == (40, 9)
    assert affordable((40, 100), (1.0, 10.0), 1e6) == (40, 100)
    assert affordable((40, 100), (1.0, 10.0), 0.0) == (4, 1)
