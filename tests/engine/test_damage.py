"""Damage: the relative change in closed form, and intervals that cover what they promise."""

import numpy as np
import pytest

from onnxcompress.engine.damage import Damage, Yardstick


def test_relative_change_is_that_of_the_worst_output():
    calls = [{"x": np.float32([[1, 2]])}, {"x": np.float32([[3, 4]])}]
    yardstick = Yardstick(lambda f: {"a": f["x"], "b": 2 * f["x"]}, calls)
    found = yardstick.measure(lambda f: {"a": f["x"] * 1.25, "b": 2 * f["x"] + 0.5})
    sizes = np.array([5.0, 25.0])
    assert found.relative_l2() == pytest.approx(0.25)
    rows = np.array([0])
    assert found.relative_l2(rows) == pytest.approx(max(0.25, np.sqrt(0.5 / (4 * sizes[0]))))
    assert yardstick.measure(lambda f: {"a": f["x"], "b": 2 * f["x"]}).relative_l2() == 0


def test_what_is_no_number_is_infinitely_far():
    yardstick = Yardstick(lambda f: {"y": f["x"]}, [{"x": np.ones((1, 2))}])
    assert yardstick.measure(lambda f: {"y": f["x"] * np.nan}).relative_l2() == np.inf
    assert yardstick.measure(lambda f: {"y": np.ones(2)}).relative_l2() == np.inf
    assert yardstick.measure(lambda f: {}).relative_l2() == np.inf


def test_an_interval_with_examples_that_are_infinitely_far_has_an_end():
    changes, references = np.array([[np.inf], *[[1.0]] * 9]), np.ones((10, 1))
    low, high = Damage(("y",), changes, references).interval(np.random.default_rng(0))
    assert (low, high) == (1.0, np.inf)  # a third of the resamples lack that example
    low, high = Damage(("y",), np.full((10, 1), np.inf), references).interval(np.random.default_rng(0))
    assert (low, high) == (np.inf, np.inf)


def test_what_an_output_of_another_length_lacks_counts_as_zeros():
    yardstick = Yardstick(lambda f: {"y": f["x"]}, [{"x": np.array([[3.0, 4.0], [0.0, 12.0]])}])
    shorter = yardstick.measure(lambda f: {"y": f["x"][:1]})
    assert shorter.relative_l2() == pytest.approx(12 / 13)
    longer = yardstick.measure(lambda f: {"y": np.vstack([f["x"], [[0.0, 13.0]]])})
    assert longer.relative_l2() == pytest.approx(1.0)
    assert yardstick.measure(lambda f: {"y": f["x"][:0]}).relative_l2() == pytest.approx(1.0)


def test_an_output_that_is_a_single_number_has_a_damage():
    yardstick = Yardstick(lambda f: {"y": np.array(f["x"].sum())}, [{"x": np.array([3.0, 1.0])}])
    assert yardstick.measure(lambda f: {"y": np.array(5.0)}).relative_l2() == pytest.approx(0.25)


def test_only_as_many_examples_as_asked_for():
    calls = [{"x": np.full((1, 1), v)} for v in (1.0, 2.0, 3.0)]
    found = Yardstick(lambda f: {"y": f["x"]}, calls).measure(lambda f: {"y": f["x"]}, most=2)
    assert found.changes.shape == (2, 1)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    # Changes are χ² with one degree: the truth is √(E change / E reference) = 1.
    inside = 0
    for _ in range(200):
        found = Damage(("y",), rng.standard_normal((50, 1)) ** 2, np.ones((50, 1)))
        low, high = found.interval(rng, draws=400)
        inside += low <= 1.0 <= high
    assert 0.86 <= inside / 200 <= 0.99
