"""``--max-time``: one limit for the training of a chain, shared by the methods that train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from onnxcompress import pipeline
from onnxcompress.core.plan import Plan
from onnxcompress.core.resources import Resources
from onnxcompress.methods._base import Method, Needs
from onnxcompress.methods.half import HalfWeights
from onnxcompress.pipeline._training_time import TrainingTime
from onnxcompress.recipe import Recipe

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@dataclass(frozen=True)
class Recorder(Method):
    """Notes how much time it is given, and takes some."""

    name: ClassVar[str] = "recorder"
    source: ClassVar[str] = "none"
    needs: ClassVar[Needs] = Needs.NOTHING
    summary: ClassVar[str] = "changes nothing"

    clock: Clock
    given: list
    takes: float
    training: bool = True

    @property
    def trains(self):
        return self.training

    def plan(self, model, task, resources):
        self.given.append(resources.max_time_s)
        self.clock.now += self.takes
        return Plan()


def chain(limit, *methods):
    """Return what methods (seconds taken, whether they train) are given of a limit."""
    clock, given = Clock(), []
    recorders = [Recorder(clock, given, takes, training) for takes, training in methods]
    shares = TrainingTime(limit, recorders, clock=clock)
    for recorder in recorders:
        with shares.given_to(recorder) as seconds:
            recorder.plan(None, None, Resources(max_time_s=seconds))
    return given


@pytest.mark.parametrize(
    ("limit", "methods", "given"),
    [
        (60, [(60, True)], [60]),
        (60, [(30, True), (30, True)], [30, 30]),
        (60, [(10, True), (10, True), (40, True)], [20, 25, 40]),  # what is left unused goes on
        (60, [(0, True), (0, True), (0, True)], [20, 30, 60]),
        (60, [(50, False), (30, True), (50, False), (30, True)], [60, 30, 30, 30]),  # these do not train
        (60, [(45, True), (30, True)], [30, 30]),  # what came after training is not the next one's loss
        (None, [(10, True), (10, False)], [None, None]),
    ],
)
def test_what_is_left_is_divided_by_those_still_to_come(limit, methods, given):
    assert chain(limit, *methods) == given


@pytest.mark.parametrize("limit", [0.5, 7.0, 3600.0])
@pytest.mark.parametrize("overshoot", [0.0, 5.0])
def test_all_methods_together_never_train_longer_than_the_limit(limit, overshoot):
    """Each trains for all it is given, and takes longer: the sum is the limit, and none gets nothing."""
    clock = Clock()
    methods = [Recorder(clock, [], 0.0) for _ in range(4)]
    shares, trained = TrainingTime(limit, methods, clock=clock), []
    for method in methods:
        with shares.given_to(method) as seconds:
            trained.append(seconds)
            clock.now += seconds + overshoot
    assert sum(trained) == pytest.approx(limit)
    assert min(trained) == pytest.approx(limit / 4)


def test_a_compression_shares_its_limit():
    clock, given = Clock(), []
    methods = (Recorder(clock, given, 0.0), Recorder(clock, given, 0.0), HalfWeights())
    request = pipeline.Request(
        source=FIXTURES / "digits_mlp.onnx",
        recipe=Recipe(methods=methods),
        resources=Resources(max_time_s=1e9),
        benchmark=False,
    )
    pipeline.compress(request)
    first, second = given
    assert first == 5e8
    assert 1e9 - 60 < second <= 1e9, "what the first did not need goes to the second"
