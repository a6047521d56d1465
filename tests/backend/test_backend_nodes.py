"""ONNX's own node tests through the torch graph (some seconds for all of them)."""

from __future__ import annotations

import copy

import backend_coverage
import numpy as np
import onnx_ir as ir
import pytest

from onnxcompress.core.model import Model, Source
from onnxcompress.engine import runtime
from onnxcompress.engine.graph.torchgraph import TorchGraph


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


RANDOM = ("test_bernoulli", "test_training_dropout")


def test_no_operator_of_ours_computes_anything_else(cases, outcomes):
    """Where ours differs from the expectation, it computes what onnxruntime does, which runs the model."""
    by_name = {case.name: case for case in cases}
    wrong = [
        f"{o.name}: {o.why}"
        for o in outcomes
        if o.way == "own"
        and not o.passed
        and not o.name.startswith(RANDOM)
        and not as_onnxruntime(by_name[o.name])
    ]
    assert not wrong, "\n".join(wrong)


def as_onnxruntime(case):
    inputs = [backend_coverage.plain(value) for value in case.data_sets[0][0]]
    feeds = dict(zip([i.name for i in case.model.graph.input], inputs, strict=True))
    graph = TorchGraph(Model(ir.from_proto(case.model), Source(None, "", 0)))
    found = list(graph.run(feeds).values())
    wanted = list(runtime.open_session(case.model.SerializeToString()).run(feeds).values())
    return not backend_coverage.difference(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_wrong_expectation_is_noticed(cases):
    case = copy.copy(next(c for c in cases if c.name == "test_add"))
    inputs, expected = case.data_sets[0]
    case.data_sets = [(inputs, [np.asarray(backend_coverage.plain(expected[0])) + np.float32(0.01)])]
    assert not backend_coverage.run(case).passed
