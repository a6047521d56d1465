"""The torch graph against onnxruntime: how weights and names may hide in a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from small_graphs import (
    FEEDS,
    FLOAT,
    MATMUL,
    RNG,
    W44,
    X,
    Y,
    check,
    constant,
    proto,
    reference,
    sgd_step,
    torch_graph,
    written,
)

from onnxcompress.engine import runtime


def behind(op_type, array, *, extra=(), initializers=None, **attributes):
    """Return a model whose MatMul weight ``w`` comes out of one node over the stored weight ``v``."""
    nodes = [*extra, helper.make_node(op_type, ["v", *(initializers or {})], ["w"], **attributes), MATMUL]
    return proto(nodes, X, Y, {"v": array, **(initializers or {})})


HIDDEN = {
    "constant": proto([constant("w", W44), MATMUL], X, Y),
    "identity": behind("Identity", W44),
    "cast": behind("Cast", W44.astype(np.float16), to=FLOAT),
    "transpose": behind("Transpose", W44, perm=[1, 0]),
    "reshape": behind("Reshape", W44.reshape(16), initializers={"s": np.array([4, 4])}),
    "dequantize": behind(
        "DequantizeLinear",
        RNG.integers(-9, 9, (4, 4)).astype(np.int8),
        initializers={"scale": np.array([0.1, 0.2, 0.3, 0.4], np.float32), "zero": np.zeros(4, np.int8)},
        axis=1,
    ),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_weight_behind_a_node_is_trained_and_written_back(case):
    model = HIDDEN[case]
    graph = check(model, FEEDS)
    before = graph.arrays()
    sgd_step(graph, FEEDS)
    assert graph.trainable
    assert graph.without_gradient() == ()
    after = graph.arrays()
    assert all(not np.array_equal(before[n], after[n]) for n in graph.trainable)
    assert all(after[n].dtype == before[n].dtype for n in after)
    check_written = reference(written(model, graph)).run(FEEDS)
    tolerance = 2e-3 if case == "cast" else 1e-5  # what is stored in half precision is rounded
    np.testing.assert_allclose(graph.run(FEEDS)["y"], check_written["y"], rtol=tolerance, atol=tolerance)


def test_shared_weight_is_one_parameter_and_collects_both_gradients():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    model = proto(nodes, X, Y, {"w": W44})
    graph = check(model, FEEDS, 1e-5)
    assert len(list(graph.parameters())) == 1
    x, w = torch.from_numpy(FEEDS["x"]), torch.from_numpy(W44.copy()).requires_grad_()
    ((x @ w @ w) ** 2).sum().backward()
    sgd_step(graph, FEEDS)
    torch.testing.assert_close(graph.weight("w").grad, w.grad, rtol=1e-5, atol=1e-5)


def test_a_changed_weight_changes_the_outputs():
    model = proto([MATMUL], X, Y, {"w": W44})
    graph = torch_graph(model)
    changed = W44.copy()
    changed[0, 0] += 1e-2
    graph.set_arrays({"w": changed})
    want = runtime.open_session(model.SerializeToString()).run(FEEDS)["y"]
    assert np.linalg.norm(graph.run(FEEDS)["y"] - want) / np.linalg.norm(want) > 1e-4


def test_ir_version_3_weights_are_graph_inputs_and_may_be_fed():
    model = proto([MATMUL], {**X, "w": (FLOAT, [4, 4])}, Y, {"w": W44}, opset=8, ir_version=3)
    graph = check(model, FEEDS)
    assert graph.inputs == ("x",)
    assert graph.trainable == ("w",)
    fed = graph.run({**FEEDS, "w": 2 * W44})["y"]
    np.testing.assert_allclose(fed, 2 * graph.run(FEEDS)["y"], rtol=1e-6)


def test_only_second_output_of_split():
    nodes = [helper.make_node("Split", ["x"], ["a", "b"], axis=1), helper.make_node("Relu", ["b"], ["y"])]
    check(proto(nodes, X, {"y": (FLOAT, [2, 2])}, opset=13), FEEDS)


def test_left_out_output_of_split():
    # onnxruntime itself crashes on this file, alone and whole.
    nodes = [helper.make_node("Split", ["x"], ["", "y"], axis=1)]
    graph = torch_graph(proto(nodes, X, {"y": (FLOAT, [2, 2])}, opset=13))
    np.testing.assert_array_equal(graph.run(FEEDS)["y"], FEEDS["x"][:, 2:])


def test_output_is_input_or_initializer_or_constant():
    outputs = {"x": (FLOAT, [2, 4]), "w": (FLOAT, [4, 4]), "c": (FLOAT, [4, 4]), "y": (FLOAT, [2, 4])}
    model = proto([constant("c", W44 + 1), MATMUL], X, outputs, {"w": W44})
    graph = torch_graph(model)
    found = graph.run(FEEDS)
    np.testing.assert_array_equal(found["x"], FEEDS["x"])
    np.testing.assert_array_equal(found["w"], W44)
    np.testing.assert_array_equal(found["c"], W44 + 1)
    np.testing.assert_allclose(found["y"], FEEDS["x"] @ W44, rtol=1e-5)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad(auto_pad):
    weight = RNG.standard_normal((3, 2, 4, 4)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=auto_pad, strides=[2, 2])
    model = proto([node], {"x": (FLOAT, [1, 2, 9, 7])}, {"y": (FLOAT, ["a", "b", "c", "d"])}, {"w": weight})
    check(model, {"x": RNG.standard_normal((1, 2, 9, 7)).astype(np.float32)}, 1e-5)


def test_reshape_allowzero():
    node = helper.make_node("Reshape", ["x", "s"], ["y"], allowzero=1)
    model = proto([node], {"x": (FLOAT, [0, 4])}, {"y": (FLOAT, ["a", "b"])}, {"s": np.array([4, 0])})
    check(model, {"x": np.zeros((0, 4), np.float32)})


def test_clip_with_left_out_minimum():
    node = helper.make_node("Clip", ["x", "", "max"], ["y"])
    check(proto([node], X, Y, {"max": np.array(0.5, np.float32)}), FEEDS)


def test_dropout_of_opset_7():
    check(proto([helper.make_node("Dropout", ["x"], ["y"], ratio=0.5)], X, Y, opset=7), FEEDS)


NAMES = ["input.1", "x:0", "0", "a/b.c", "with space", "self", ""]


@pytest.mark.parametrize("name", NAMES[:-1])
def test_odd_names(name):
    node = helper.make_node("MatMul", [name, "w." + name], ["out " + name])
    model = proto([node], {name: (FLOAT, [2, 4])}, {"out " + name: (FLOAT, [2, 4])}, {"w." + name: W44})
    graph = check(model, {name: FEEDS["x"]})
    assert graph.trainable == ("w." + name,)
    assert graph.weight("w." + name).shape == (4, 4)


def test_scalars_and_shapes_are_not_trained():
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["r"], mode="linear"),
        helper.make_node("Mul", ["r", "factor"], ["m"]),
        helper.make_node("Clip", ["m", "low"], ["c"]),
        helper.make_node("Add", ["c", "bias"], ["y"]),
    ]
    weights = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "factor": np.array(2, np.float32),
        "low": np.array(-1, np.float32),
        "bias": np.ones((1, 3, 1, 1), np.float32),
    }
    model = proto(nodes, {"x": (FLOAT, [1, 3, 4, 4])}, {"y": (FLOAT, [1, 3, 8, 8])}, weights)
    graph = check(model, {"x": RNG.standard_normal((1, 3, 4, 4)).astype(np.float32)}, 1e-5)
    assert graph.trainable == ("bias",)
