"""ONNX's own node tests through the torch graph (some seconds for all of them)."""

from __future__ import annotations

import copy

import backend_coverage
import numpy as np
import pytest


@pytest.fixture(scope="module")
def cases():
    return backend_coverage.node_tests()


@pytest.fixture(scope="module")
def outcomes(cases):
    return [backend_coverage.run(case) for case in cases]


def test_at_least_1200_of_the_node_tests_pass(cases, outcomes):
    assert len(cases) >= 1404
    failed = [f"{o.name}: {o.why}" for o in outcomes if not o.passed]
    assert len(outcomes) - len(failed) >= 1200, "\n".join(failed)


def test_most_pass_with_gradients(outcomes):
    own = sum(o.passed and o.way == "own" for o in outcomes)
    assert own >= 900


def test_no_operator_of_ours_computes_anything_else(outcomes):
    """Only random operators may give other numbers than the test's; onnxruntime's rounding is not ours."""
    random = ("test_bernoulli", "test_training_dropout")
    wrong = [
        f"{o.name}: {o.why}"
        for o in outcomes
        if o.way == "own" and not o.passed and not o.name.startswith(random)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_expectation_is_noticed(cases):
    case = copy.copy(next(c for c in cases if c.name == "test_add"))
    inputs, expected = case.data_sets[0]
    case.data_sets = [(inputs, [np.asarray(backend_coverage.plain(expected[0])) + np.float32(0.01)])]
    assert not backend_coverage.run(case).passed
