"""Which of two states is better, and how an evaluation is told."""

from __future__ import annotations

import math

import pytest

from onnxcompress.engine.training.evaluation import Evaluation
from onnxcompress.engine.training.scoring import better, in_words, point, within_chance


def scored(loss, metric):
    return Evaluation(loss, metric, 10)


@pytest.mark.parametrize(
    ("new", "old", "higher", "expected"),
    [
        (scored(1.0, 0.9), scored(0.1, 0.8), True, True),
        (scored(1.0, 0.9), scored(0.1, 0.8), False, False),
        (scored(0.1, 0.8), scored(0.2, 0.8), True, True),
        (scored(0.1, None), scored(0.2, None), True, True),
        (scored(float("nan"), 0.9), scored(5.0, 0.1), True, False),
        (scored(5.0, 0.1), scored(float("nan"), 0.9), True, True),
        (scored(0.1, 0.8), scored(0.2, 0.9), None, True),
    ],
)
def test_better(new, old, higher, expected):
    assert better(new, old, higher) is expected


@pytest.mark.parametrize(
    ("one", "other", "examples", "expected"),
    [
        # The standard error of nine tenths of 100 is three hundredths.
        (0.90, 0.92, 100, True),
        (0.88, 0.92, 100, False),
        (0.90, 0.92, 10_000, False),
        (None, 0.92, 100, False),
        (1.7, 1.71, 100, False),
        (0.9, 0.9, 0, False),
    ],
)
def test_shares_that_differ_by_chance(one, other, examples, expected):
    assert within_chance(scored(0.1, one), scored(0.2, other), examples, True) is expected


def test_a_state_that_is_not_a_number_is_not_the_same_by_chance():
    assert not within_chance(scored(math.nan, 0.9), scored(0.2, 0.9), 100, True)
    assert within_chance(scored(0.1, 0.9), scored(0.2, 0.9), 100, True)


def test_an_evaluation_as_point_and_in_words():
    found = scored(0.125, None)
    assert in_words(found, "top1") == "validation loss 0.125"
    assert in_words(scored(0.125, 0.5), "top1") == "validation loss 0.125, top1 0.5"
    assert point(3, found, 1.5, math.inf).loss is None
    assert (point(3, found, 1.5, 2.0).step, point(3, found, 1.5, 2.0).loss) == (3, 2.0)
