"""The teacher: the same outputs from memory, from disk and computed again, whatever the graph holds."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from onnx import helper
from small_models import blobs, model_of, perceptron, task_of

from onnxcompress.core.resources import Resources
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.batches import Batches, prefetched
from onnxcompress.engine.training.execution import Execution
from onnxcompress.engine.training.teacher import Teacher
from onnxcompress.engine.training.trainer import Trainer


@pytest.mark.parametrize(
    ("place", "limits"),
    [
        ("memory", {}),
        ("disk", {"memory_bytes": 0}),
        ("computed", {"memory_bytes": 0, "disk_bytes": 0}),
    ],
)
def test_every_place_gives_the_originals_outputs(place, limits):
    model, data = perceptron(end="Softmax"), blobs(600)
    task = task_of(model, {"x": data["x"][:500], "x_test": data["x"][500:]})
    graph = TorchGraph(model)
    batches = Batches(task, torch.float32, torch.device("cpu"))
    execution = Execution(graph, Feeding(False, None), batches.inputs(task.train[:3]))
    teacher = Teacher(execution, batches, needed=True, **limits)
    assert teacher.place == place
    expected = graph.run({"x": data["x"]})["y"]
    graph.set_arrays({n: np.zeros_like(a) for n, a in graph.arrays().items()})
    for indices in (np.array([7, 3, 499, 3]), np.arange(250)):
        found = teacher.outputs(indices, batches.rows(indices))["y"].numpy()
        np.testing.assert_allclose(found, expected[indices], atol=1e-6)
    assert batches.rows(task.test) is None
    found = teacher.outputs(task.test, None)["y"].numpy()  # test examples are never kept
    np.testing.assert_allclose(found, expected[task.test], atol=1e-6)
    assert all((p == 0).all() for p in graph.parameters())
    facts = teacher.facts(None)
    # Where outputs are not kept, examples are drawn that stand for all.
    exact = expected[:500].astype(np.float64).var()
    assert facts.variance["y"] == pytest.approx(exact, rel=1e-4 if place != "computed" else 0.1)
    assert facts.probabilities == {"y"}


@pytest.mark.parametrize("at_once", [512, 8])
@pytest.mark.parametrize("count", [600, 200])
@pytest.mark.parametrize("limits", [{}, {"memory_bytes": 0}])
def test_the_time_limit_ends_what_is_computed_ahead(limits, count, at_once):
    model, data = perceptron(), blobs(count)
    task = task_of(model, {"x": data["x"]})
    graph = TorchGraph(model)
    batches = Batches(task, torch.float32, torch.device("cpu"))
    execution = Execution(graph, Feeding(False, None), batches.inputs(task.train[:3]))
    execution.at_once = at_once
    calls, call = [], execution.call
    execution.call = lambda stack: calls.append(1) or call(stack)
    teacher = Teacher(execution, batches, needed=True, deadline=time.monotonic(), **limits)
    # Of 600 examples, three chunks, a draw is looked at for its size, and a call of the first chunk is made;
    # 200 are one chunk, whose first look is all of it, unless that takes more than one call.
    assert len(calls) == (2 if count == 600 else 1)
    whole = count == 200 and at_once == 512
    assert teacher.broken_off is not whole
    assert teacher.place == ("memory" if not limits else "disk" if whole else "computed")
    expected = graph.run({"x": data["x"]})["y"]
    graph.set_arrays({n: np.zeros_like(a) for n, a in graph.arrays().items()})
    for indices in (np.arange(count - 100, count), np.arange(count - 120, count)[::-1].copy()):
        calls.clear()
        found = teacher.outputs(indices, batches.rows(indices))["y"].numpy()
        np.testing.assert_allclose(found, expected[indices], atol=1e-6)
    # What was asked for before is remembered where memory holds it: only 20 of the 120 are new.
    new = (0 if whole else 20) if teacher.place == "memory" else 0 if teacher.place == "disk" else 120
    assert len(calls) == -(-new // at_once)


def test_where_time_is_limited_an_evaluation_takes_no_more_than_a_part_of_it(monkeypatch):
    data, now, run = blobs(600), [0.0], Execution.run

    def slow(self, stack, *more):
        now[0] += len(stack["x"])  # a second an example
        return run(self, stack, *more)

    monkeypatch.setattr(Execution, "run", slow)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    task = task_of(perceptron(), {"x": data["x"][:500], "x_validation": data["x"][500:]})
    made = {}
    for limit in (None, 1e4, 300.0, 10.0):
        made[limit] = trainer = Trainer(TorchGraph(perceptron()), task, Resources(max_time_s=limit))
        expected = {None: 100, 1e4: 100, 300.0: 30, 10.0: 16}[limit]
        assert trainer.evaluate().examples == trainer.validation_examples == expected
        assert trainer.evaluate(limit=20).examples == min(20, expected)
        assert trainer.evaluate(task.validation).examples == 100  # what is asked for by hand is looked at
        assert trainer.warnings == [] if expected == 100 else f"{expected} of the 100" in trainer.warnings[0]
        began = now[0]
        trainer.idle_loss()
        trainer.evaluate()
        assert now[0] - began <= 2 * expected
    made[None].restore(*made[300.0].state())
    assert made[None].evaluate().examples == 30  # as many as what came before was judged by


def test_an_evaluation_of_the_test_split_compares_with_the_original():
    model, data = perceptron(), blobs(200)
    task = task_of(model, {"x": data["x"][:150], "x_test": data["x"][150:]})
    trainer = Trainer(TorchGraph(model), task, Resources())
    original = trainer.graph.arrays()
    rng = np.random.default_rng(0)
    trainer.graph.set_arrays({n: rng.standard_normal(a.shape).astype("f") for n, a in original.items()})
    assert trainer.evaluate("test").loss > 0.1
    assert trainer.evaluate("test", arrays=original).loss == pytest.approx(0, abs=1e-10)


def test_outputs_no_loss_can_be_taken_of_are_left_out():
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=1),
        helper.make_node("SequenceConstruct", ["scores"], ["list"]),
    ]
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    model = model_of(nodes, {"x": ["N", 4]}, {"scores": ["N", 3]}, {"W": weight})
    graph_proto = model.ir.graph
    for name in ("best", "list"):
        graph_proto.outputs.append(next(n for n in graph_proto if n.outputs[0].name == name).outputs[0])
    task = task_of(model, {"x": np.random.default_rng(1).standard_normal((40, 4)).astype(np.float32)})
    trainer = Trainer(TorchGraph(model), task, Resources(), batch_size=8)
    assert trainer._evaluator.execution.outputs == ("scores",)
    trainer.run(1, lr=0.1)
    assert trainer.evaluate().metric == 1.0


@pytest.mark.parametrize("batch", [1, 2])
def test_an_output_that_merges_the_batch_with_boxes_is_taken_apart(batch):
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "W"], ["boxes"]),
    ]
    weight = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    initializers = {"W": weight, "flat": np.array([-1, 4])}
    model = model_of(nodes, {"x": [batch, 3, 4]}, {"boxes": [3 * batch, 2]}, initializers)
    x = np.random.default_rng(1).standard_normal((21, 3, 4)).astype(np.float32)
    task = task_of(model, {"x": x, "labels": x @ weight})
    found = task.samples.feeding.predict(TorchGraph(model).run, {"x": x})["boxes"]
    np.testing.assert_allclose(found, x @ weight, atol=1e-6)
    trainer = Trainer(TorchGraph(model), task, Resources(), batch_size=5)
    assert trainer.evaluate("train").loss == pytest.approx(0, abs=1e-10)
    trainer.run(1, lr=0.1)


def test_a_constant_output_does_not_divide_by_zero():
    nodes = [helper.make_node("Mul", ["x", "W"], ["y"])]
    model = model_of(nodes, {"x": ["N", 2]}, {"y": ["N", 2]}, {"W": np.zeros((1, 2), np.float32)})
    task = task_of(model, {"x": np.ones((20, 2), np.float32)})
    trainer = Trainer(TorchGraph(model), task, Resources())
    assert trainer.evaluate().loss == 0
    trainer.graph.set_arrays({"W": np.full((1, 2), 0.5, np.float32)})
    assert trainer.evaluate().loss == pytest.approx(0.25)


def test_reading_ahead_keeps_the_order_and_passes_errors_on():
    assert list(prefetched(iter(range(5)), lambda k: k * k)) == [(k, k * k) for k in range(5)]
    assert list(prefetched(iter(()), lambda k: k)) == []
    with pytest.raises(ZeroDivisionError):
        list(prefetched(iter([1, 0]), lambda k: 1 / k))
