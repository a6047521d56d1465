from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.model import Model, Source
from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.tensor_info import TensorInfo
from onnxcompress.engine.training.noise import fitting_noise

W = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def linear(kind: int = TensorProto.FLOAT) -> TorchGraph:
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=1), helper.make_node("MatMul", ["f", "W"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ("N", 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 3))],
        [numpy_helper.from_array(W, "W")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return TorchGraph(Model(ir.serde.deserialize_model(proto), Source(None, "", 0)))


def task_of(x: np.ndarray):
    info = TensorInfo("x", "tensor", x.dtype, ("N", 6))
    return make_task(open_data([{"x": row[None]} for row in x], [info]))


@pytest.mark.parametrize("share", [0.01, 0.04, 0.2])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 200.0])
def test_strength_of_a_linear_model_has_a_closed_form(share, scale):
    x = (np.random.default_rng(1).normal(size=(300, 6)) * scale).astype(np.float32)
    found = fitting_noise(linear(), task_of(x), share)["x"]
    # Noise e of deviation s moves output j by W_j·e, whose mean square is s²‖W_j‖².
    expected = np.sqrt(share * (x @ W).var() / np.square(W).sum(axis=0).mean())
    assert found == pytest.approx(expected, rel=0.1)


def test_inputs_that_are_not_floating_point_or_constant_get_none():
    whole = np.random.default_rng(1).integers(0, 9, (50, 6))
    assert fitting_noise(linear(TensorProto.INT64), task_of(whole)) == {}
    assert fitting_noise(linear(), task_of(np.ones((50, 6), np.float32))) == {}


def test_out_of_time_one_look_has_to_do():
    graph, looks, x = linear(), [], np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    run = graph.run
    graph.run = lambda *given: (looks.append(1), run(*given))[1]
    whole = fitting_noise(graph, task_of(x))["x"]
    needed = len(looks)
    looks.clear()
    assert fitting_noise(graph, task_of(x), until=-np.inf)["x"] == pytest.approx(whole, rel=0.2)
    assert needed == 7
    assert len(looks) == 2  # clean and noisy
