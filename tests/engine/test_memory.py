"""What calls need of memory: measured, and kept within bounds where nobody asked for more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from small_models import blobs, model_of, perceptron, task_of

from onnxcompress.core.resources import Resources
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training import execution as execution_module
from onnxcompress.engine.training import trainer as trainer_module
from onnxcompress.engine.training.batches import Batches
from onnxcompress.engine.training.execution import LEAST_AT_ONCE, MOST_AT_ONCE, Execution
from onnxcompress.engine.training.teacher import Teacher
from onnxcompress.engine.training.trainer import LEAST_BATCH, Trainer


def two_layers():
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "V"], ["y"]),
    ]
    weights = {"W": np.ones((4, 100), np.float32), "V": np.ones((100, 2), np.float32)}
    return model_of(nodes, {"x": ["N", 4]}, {"y": ["N", 2]}, weights)


def test_a_footprint_is_counted_in_bytes():
    found = TorchGraph(two_layers()).footprint({"x": np.ones((3, 4), np.float32)})
    # Relu reads and gives 3 x 100 numbers; MatMul reads x and W besides what it gives
    assert found.widest == 4 * max(3 * 100 + 3 * 100, 3 * 4 + 4 * 100 + 3 * 100, 3 * 100 + 100 * 2 + 3 * 2)
    assert found.given == 4 * (3 * 100 + 3 * 100 + 3 * 2)


def probed(model, task):
    batches = Batches(task, torch.float32, torch.device("cpu"))
    return Execution(TorchGraph(model), Feeding(False, None), batches.inputs(task.train[:3])), batches


@pytest.mark.parametrize("allowed", [1, 100_000, 1 << 40])
def test_calls_that_only_look_keep_within_what_is_allowed(monkeypatch, allowed):
    monkeypatch.setattr(execution_module, "AT_ONCE_BYTES", allowed)
    model, data = perceptron(), blobs(600)
    execution, batches = probed(model, task_of(model, {"x": data["x"]}))
    one, two = (execution.graph.footprint({"x": data["x"][:k]}).widest for k in (1, 2))
    assert execution.at_once == min(max(allowed // (two - one), LEAST_AT_ONCE), MOST_AT_ONCE)
    sizes, call = [], execution.call
    execution.call = lambda stack: sizes.append(len(stack["x"])) or call(stack)
    stack = batches.inputs(np.arange(300))
    found = execution.run(stack)["y"].detach().numpy()
    assert sum(sizes) == 300
    assert max(sizes) == min(execution.at_once, 300)
    np.testing.assert_allclose(found, execution.graph.run({"x": data["x"][:300]})["y"], atol=1e-6)
    # in training mode the examples are one batch, whose statistics would change
    execution.graph.train()
    execution.run(stack)
    assert sizes[-1] == 300


def test_what_examples_share_counts_for_none_of_them():
    nodes = [
        helper.make_node("Transpose", ["W"], ["V"]),
        helper.make_node("MatMul", ["x", "V"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", 4]}, {"y": ["N", 300]}, {"W": np.ones((300, 4), np.float32)})
    execution, _ = probed(model, task_of(model, {"x": np.ones((20, 4), np.float32)}))
    assert execution.graph.footprint({"x": np.ones((1, 4), np.float32)}).given == 4 * (300 * 4 + 300)
    assert execution.kept_bytes == 4 * 300


@pytest.mark.parametrize(("batch", "allowed"), [(3, 1), (64, 1), (600, 1), (64, 1 << 40)])
def test_calls_are_whole_groups_where_the_file_fixes_how_many(monkeypatch, batch, allowed):
    monkeypatch.setattr(execution_module, "AT_ONCE_BYTES", allowed)
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = model_of(nodes, {"x": [batch, 4]}, {"y": [batch, 4]}, {})
    stack = {"x": torch.randn(2 * batch, 4)}
    execution = Execution(TorchGraph(model), Feeding(False, batch), stack)
    assert execution.at_once % batch == 0
    # no more groups than make as many examples as are looked at in any case, unless memory allows for them
    least, most = -(-LEAST_AT_ONCE // batch) * batch, max(MOST_AT_ONCE // batch, 1) * batch
    assert execution.at_once == (least if allowed == 1 else most)


def test_a_step_keeps_within_what_is_allowed_unless_a_batch_is_asked_for(monkeypatch):
    model, data = perceptron(), blobs(600)
    task = task_of(model, {"x": data["x"]})
    usual = Trainer(TorchGraph(model), task, Resources(), usual=64)
    assert usual.batch_size == 64
    assert not usual.warnings
    each = TorchGraph(model).footprint({"x": data["x"][:1]}).given
    monkeypatch.setattr(trainer_module, "KEPT_BYTES", 20 * each)
    fewer = Trainer(TorchGraph(model), task, Resources(), usual=64)
    assert fewer.batch_size == 20
    assert fewer.warnings[0].startswith("steps of 20 examples instead of 64")
    asked = Trainer(TorchGraph(model), task, Resources(), batch_size=64)
    assert (asked.batch_size, asked.warnings) == (64, [])
    monkeypatch.setattr(trainer_module, "KEPT_BYTES", 1)
    assert Trainer(TorchGraph(model), task, Resources(), usual=64).batch_size == LEAST_BATCH


def test_few_examples_are_run_once_for_the_teacher():
    model, data = perceptron(), blobs(200)
    execution, batches = probed(model, task_of(model, {"x": data["x"]}))
    ran, run = [], execution.run
    execution.run = lambda stack, *until: ran.append(len(stack["x"])) or run(stack, *until)
    teacher = Teacher(execution, batches, needed=True)
    assert ran == [len(batches.known)]
    rows = batches.rows(batches.known)
    found = teacher.outputs(batches.known, rows)["y"].numpy()
    np.testing.assert_allclose(found, execution.graph.run({"x": data["x"][batches.known]})["y"], atol=1e-6)
