"""Nested graphs, functions, sequences and maps in the torch graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small_graphs import FEEDS, FLOAT, MATMUL, W44, X, Y, check, constant, proto, sgd_step, torch_graph

from onnxcompress.engine import runtime


def branches(condition_name="c"):
    """Return an If whose branches hold weights of their own and capture a computed value and a weight."""
    then = helper.make_graph(
        [helper.make_node("MatMul", ["h", "inner"], ["t"]), helper.make_node("Add", ["t", "b"], ["then_y"])],
        "then",
        [],
        [helper.make_tensor_value_info("then_y", FLOAT, [2, 4])],
        [numpy_helper.from_array(W44 + 1, "inner")],
    )
    otherwise = helper.make_graph(
        [constant("inner2", W44 - 1), helper.make_node("MatMul", ["h", "inner2"], ["else_y"])],
        "else",
        [],
        [helper.make_tensor_value_info("else_y", FLOAT, [2, 4])],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("If", [condition_name], ["y"], name="if", then_branch=then, else_branch=otherwise),
    ]
    inputs = {**X, "c": (TensorProto.BOOL, [])}
    return proto(nodes, inputs, Y, {"b": np.ones(4, np.float32)})


@pytest.mark.parametrize("condition", [True, False])
def test_if_with_captured_values_trains_the_branch_that_ran(condition):
    feeds = {**FEEDS, "c": np.array(condition)}
    graph = check(branches(), feeds, 1e-5)
    assert set(graph.trainable) == {"b", "if.then_branch/inner", "if.else_branch/inner2"}
    before = graph.arrays()
    sgd_step(graph, feeds)
    moved = {n for n, a in graph.arrays().items() if not np.array_equal(a, before[n])}
    assert moved == ({"b", "if.then_branch/inner"} if condition else {"if.else_branch/inner2"})
    assert graph.without_gradient() == ()


def loop(body_nodes, carried, scans, initializers=()):
    outputs = [("go", TensorProto.BOOL, []), *((n, FLOAT, [2, 4]) for n in (*carried, *scans))]
    return helper.make_graph(
        body_nodes,
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", FLOAT, [2, 4]),
        ],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in outputs],
        list(initializers),
    )


def loop_model(trips):
    body = loop(
        [
            helper.make_node("MatMul", ["s", "w"], ["m"]),
            helper.make_node("Tanh", ["m"], ["s_out"]),
            helper.make_node("Add", ["s_out", "inner"], ["scan"]),
            helper.make_node("Identity", ["go_in"], ["go"]),
        ],
        ["s_out"],
        ["scan"],
        [numpy_helper.from_array(np.ones(4, np.float32), "inner")],
    )
    node = helper.make_node("Loop", ["n", "go0", "x"], ["y", "all"], name="loop", body=body)
    outputs = {**Y, "all": (FLOAT, ["k", 2, 4])}
    return proto([node], X, outputs, {"w": W44, "n": np.array(trips), "go0": np.array(True)})


@pytest.mark.parametrize("trips", [0, 1, 3])
def test_loop_with_gradient_through_its_body(trips):
    graph = check(loop_model(trips), FEEDS, 1e-5)
    assert set(graph.trainable) == {"w", "loop.body/inner"}
    if trips:
        sgd_step(graph, FEEDS)
        w = torch.from_numpy(W44.copy()).requires_grad_()
        state, loss = torch.from_numpy(FEEDS["x"]), torch.tensor(0.0)
        for _ in range(trips):
            state = torch.tanh(state @ w)
            loss = loss + ((state + 1) ** 2).sum()
        (loss + (state**2).sum()).backward()
        torch.testing.assert_close(graph.weight("w").grad, w.grad, rtol=1e-4, atol=1e-5)


def test_scan_in_both_directions():
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "v"], ["t"]), helper.make_node("Mul", ["t", "w"], ["o"])],
        "body",
        [helper.make_tensor_value_info("s", FLOAT, [4]), helper.make_tensor_value_info("v", FLOAT, [4])],
        [helper.make_tensor_value_info("t", FLOAT, [4]), helper.make_tensor_value_info("o", FLOAT, [4])],
    )
    node = helper.make_node(
        "Scan", ["w", "x"], ["f", "y"], num_scan_inputs=1, body=body, scan_input_directions=[1]
    )
    model = proto([node], X, {"f": (FLOAT, [4]), **Y}, {"w": np.full(4, 0.5, np.float32)})
    graph = check(model, FEEDS)
    sgd_step(graph, FEEDS)
    assert not np.array_equal(graph.arrays()["w"], np.full(4, 0.5))


def test_local_function_is_inlined_and_its_caller_trained():
    function = helper.make_function(
        "custom",
        "Scaled",
        ["a", "b"],
        ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("Elu", ["m"], ["c"], alpha=0.5)],
        [helper.make_opsetid("", 17)],
    )
    node = helper.make_node("Scaled", ["x", "w"], ["y"], domain="custom")
    model = proto([node], X, Y, {"w": W44}, functions=[function], domains=[("custom", 1)])
    graph = check(model, FEEDS)
    assert len(graph.model.ir.functions) == 1
    sgd_step(graph, FEEDS)
    assert not np.array_equal(graph.arrays()["w"], W44)


def test_function_of_another_operator_set_is_run_whole_and_reported():
    function = helper.make_function(
        "custom",
        "Shifted",
        ["a"],
        ["c"],
        [helper.make_node("Elu", ["a"], ["c"])],
        [helper.make_opsetid("", 15)],
    )
    nodes = [MATMUL, helper.make_node("Shifted", ["y"], ["z"], name="call", domain="custom")]
    outputs = {"z": (FLOAT, [2, 4])}
    model = proto(nodes, X, outputs, {"w": W44}, functions=[function], domains=[("custom", 1)])
    graph = check(model, FEEDS, 1e-5)
    assert graph.ways()["call"] == "onnxruntime"
    assert [refusal.where for refusal in graph.without_gradient()] == ["w"]


def without_types(model):
    """Drop the types of outputs in place: the graph library has no word for maps."""
    for output in model.graph.output:
        output.ClearField("type")
    return model


def test_strings_and_maps_pass_through_onnxruntime():
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"], axis=1),
        helper.make_node(
            "ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c", "d"]
        ),
    ]
    model = proto(nodes, X, Y, domains=[("ai.onnx.ml", 1)])
    graph = torch_graph(without_types(model))
    kind = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(FLOAT, []))
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(kind))
    expected = runtime.open_session(model.SerializeToString()).run(FEEDS)["y"]
    found = graph.run(FEEDS)["y"]
    assert graph({"x": FEEDS["x"]})["y"].shape == (2, 4)
    assert [set(row) for row in found] == [{"a", "b", "c", "d"}] * 2
    assert all(abs(f[k] - e[k]) < 1e-6 for f, e in zip(found, expected, strict=True) for k in e)


def test_sequences_are_lists():
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["q"], axis=1),
        helper.make_node("ReverseSequence", ["x", "n"], ["r"], batch_axis=1, time_axis=0),
        helper.make_node("SequenceInsert", ["q", "r"], ["q2"]),
        helper.make_node("SequenceAt", ["q2", "k"], ["a"]),
        helper.make_node("ConcatFromSequence", ["q"], ["b"], axis=1),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    model = proto(nodes, X, Y, {"n": np.full(4, 2), "k": np.array(-1)})
    check(model, FEEDS)
