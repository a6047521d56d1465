"""How the torch graph runs: training mode, precision, determinism, gradients that stop, hooks, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from small_graphs import FEEDS, FLOAT, MATMUL, RNG, W44, X, Y, check, proto, torch_graph
from test_torchgraph_control import loop_model

from onnxcompress.core.errors import DataError, UnsupportedError
from onnxcompress.engine import runtime


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2", "BFLOAT16", "INT2"])
def test_narrow_types_on_the_way(kind):
    nodes = [
        helper.make_node("Cast", ["x"], ["q"], to=getattr(TensorProto, kind)),
        helper.make_node("Transpose", ["q"], ["t"], perm=[1, 0]),
        helper.make_node("Cast", ["t"], ["y"], to=FLOAT),
    ]
    model = proto(nodes, X, {"y": (FLOAT, [4, 2])}, opset=25, ir_version=13)
    nodes = [helper.make_node("Cast", ["x"], ["q"], to=getattr(TensorProto, kind))]
    direct = proto([*nodes, helper.make_node("Cast", ["q"], ["y"], to=FLOAT)], X, Y, opset=25, ir_version=13)
    feeds = {"x": np.array([[1, 0, 1, 1], [0, 1, 0, 1]], np.float32)}
    want = runtime.open_session(direct.SerializeToString(), optimization="none").run(feeds)["y"].T
    np.testing.assert_array_equal(torch_graph(model).run(feeds)["y"], want)


def test_batch_normalization_in_training_follows_torch():
    names = ["scale", "bias", "mean", "var"]
    weights = {n: RNG.uniform(0.5, 1.5, 3).astype(np.float32) for n in names}
    node = helper.make_node("BatchNormalization", ["x", *names], ["y"], momentum=0.8)
    shapes = {"x": (FLOAT, [8, 3, 5])}, {"y": (FLOAT, [8, 3, 5])}
    graph = check(
        proto([node], *shapes, weights), {"x": RNG.standard_normal((8, 3, 5)).astype(np.float32)}, 1e-5
    )
    assert graph.trainable == ("scale", "bias")
    assert not graph.weight("mean").requires_grad
    peer = torch.nn.BatchNorm1d(3, momentum=0.2)
    peer.load_state_dict(
        {
            "weight": torch.from_numpy(weights["scale"]),
            "bias": torch.from_numpy(weights["bias"]),
            "running_mean": torch.from_numpy(weights["mean"]),
            "running_var": torch.from_numpy(weights["var"]),
            "num_batches_tracked": torch.tensor(0),
        }
    )
    x = torch.from_numpy(RNG.standard_normal((8, 3, 5)).astype(np.float32))
    torch.testing.assert_close(graph.train()({"x": x})["y"], peer.train()(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(graph.weight("mean").detach(), peer.running_mean)
    # ONNX defines the running variance by the population's, torch by the sample's: 40 values a channel.
    population = 0.8 * torch.from_numpy(weights["var"]) + 0.2 * x.var((0, 2), correction=0)
    torch.testing.assert_close(graph.weight("var").detach(), population)


def test_dropout_drops_in_training_only():
    model = proto([helper.make_node("Dropout", ["x", "r"], ["y"])], X, Y, {"r": np.array(0.5, np.float32)})
    graph = torch_graph(model)
    feeds = {"x": torch.ones(64, 4)}
    torch.manual_seed(0)
    dropped = graph.train()(feeds)["y"]
    assert 0.3 < float((dropped == 0).float().mean()) < 0.7
    assert torch.equal(graph.eval()(feeds)["y"], feeds["x"])


def test_random_operators_repeat_in_evaluation_and_vary_in_training():
    node = helper.make_node("RandomUniformLike", ["x"], ["y"])
    graph = torch_graph(proto([node], X, Y))
    state = torch.get_rng_state()
    np.testing.assert_array_equal(graph.run(FEEDS)["y"], graph.run(FEEDS)["y"])
    assert torch.equal(state, torch.get_rng_state())
    graph.train()
    assert not torch.equal(graph(FEEDS)["y"], graph(FEEDS)["y"])


def test_a_kernel_that_wants_constant_inputs_gets_them():
    """onnxruntime's DynamicQuantizeLSTM takes its scales from initializers only; here they are weights."""
    hidden, size = 2, 3
    weights = {
        "W": RNG.integers(-50, 50, (1, size, 4 * hidden)).astype(np.int8),
        "R": RNG.integers(-50, 50, (1, hidden, 4 * hidden)).astype(np.int8),
        "B": RNG.standard_normal((1, 8 * hidden)).astype(np.float32),
        "ws": np.array([0.01], np.float32),
        "wz": np.array([0], np.int8),
        "rs": np.array([0.02], np.float32),
        "rz": np.array([0], np.int8),
    }
    inputs = ["x", "W", "R", "B", "", "", "", "", "ws", "wz", "rs", "rz"]
    node = helper.make_node(
        "DynamicQuantizeLSTM", inputs, ["y"], domain="com.microsoft", hidden_size=hidden, name="rnn"
    )
    model = proto(
        [node],
        {"x": (FLOAT, [4, 1, size])},
        {"y": (FLOAT, [4, 1, 1, hidden])},
        weights,
        domains=[("com.microsoft", 1)],
    )
    graph = check(model, {"x": RNG.standard_normal((4, 1, size)).astype(np.float32)}, 1e-5)
    assert {refusal.where for refusal in graph.without_gradient()} == {"B", "ws", "rs"}


def test_float64_runs_the_whole_graph_in_double():
    nodes = [
        helper.make_node("Cast", ["w"], ["w32"], to=FLOAT),
        helper.make_node("MatMul", ["x", "w32"], ["h"]),
        helper.make_node("Erf", ["h"], ["y"]),
    ]
    model = proto(nodes, X, Y, {"w": W44.astype(np.float64)})
    found = torch_graph(model, dtype=torch.float64).run(FEEDS)["y"]
    assert found.dtype == np.float64
    x = torch.from_numpy(FEEDS["x"]).double()
    want = torch.erf(x @ torch.from_numpy(W44.astype(np.float64)))
    np.testing.assert_allclose(found, want.numpy(), rtol=1e-14)


def test_half_precision_is_computed_in_float32_and_stored_as_it_was():
    half = TensorProto.FLOAT16
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = proto([node], {"x": (half, [2, 4])}, {"y": (half, [2, 4])}, {"w": W44.astype(np.float16)})
    graph = check(model, {"x": FEEDS["x"].astype(np.float16)}, 1e-3)
    assert graph.weight("w").dtype is torch.float32
    assert graph.arrays(["w"])["w"].dtype == np.float16


def test_evaluation_is_deterministic_and_does_not_keep_intermediate_values():
    graph = check(loop_model(3), FEEDS, 1e-5)
    first, second = graph.run(FEEDS), graph.run(FEEDS)
    assert all(np.array_equal(first[n], second[n]) for n in first)


def test_gradient_stops_are_reported_by_weight_and_node():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Inverse", ["h3"], ["i"], name="inv", domain="com.microsoft"),
        helper.make_node("Unsqueeze", ["w2", "axes"], ["h3"]),
        helper.make_node("Add", ["h", "i2"], ["y"]),
        helper.make_node("ReduceSum", ["i", "axes"], ["i2"]),
    ]
    order = [nodes[2], nodes[1], nodes[4], nodes[0], nodes[3]]
    weights = {"w": W44, "w2": np.eye(4, dtype=np.float32)[None, 0:1].repeat(1, 0)[0], "axes": np.array([0])}
    weights["w2"] = np.eye(4, dtype=np.float32)
    outputs = {"y": (FLOAT, [4, 4])}
    model = proto(order, {"x": (FLOAT, [4, 4])}, outputs, weights, domains=[("com.microsoft", 1)], opset=13)
    graph = check(model, {"x": W44}, 1e-5)
    (refusal,) = graph.without_gradient()
    assert refusal.where == "w2"
    assert "inv" in refusal.why
    assert "Inverse" in refusal.why
    assert graph.ways()["inv"] == "onnxruntime"


def test_a_loaded_state_is_seen_by_the_parts_that_are_computed_once():
    nodes = [
        helper.make_node("Mul", ["factor", "factor"], ["square"]),
        helper.make_node("Mul", ["x", "square"], ["y"]),
    ]
    graph = torch_graph(proto(nodes, X, Y, {"factor": np.array(3, np.float32)}))
    np.testing.assert_allclose(graph.run(FEEDS)["y"], 9 * FEEDS["x"], rtol=1e-6)
    graph.load_state_dict({name: value * 0 + 2 for name, value in graph.state_dict().items()})
    np.testing.assert_allclose(graph.run(FEEDS)["y"], 4 * FEEDS["x"], rtol=1e-6)


def test_hooks_see_weights_inputs_and_values_by_name():
    nodes = [MATMUL, helper.make_node("Relu", ["y"], ["z"])]
    graph = torch_graph(proto(nodes, X, {"z": (FLOAT, [2, 4])}, {"w": W44}))
    plain = graph.run(FEEDS)["z"]
    graph.hooks["y"] = lambda value: value * 0
    assert not graph.run(FEEDS)["z"].any()
    graph.hooks = {"w": lambda value: value * 2}
    np.testing.assert_allclose(graph.run(FEEDS)["z"], 2 * plain, rtol=1e-6)
    graph.hooks = {}
    np.testing.assert_array_equal(graph.run(FEEDS)["z"], plain)


def fixed_batch(second):
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["h"]),
        *second,
    ]
    weights = {"w": RNG.standard_normal((6, 4)).astype(np.float32), "flat": np.array([1, 6])}
    return proto(nodes, {"x": (FLOAT, [1, 2, 3])}, {"y": (FLOAT, [1, 4])}, weights)


def test_fixed_batch_is_widened_where_that_is_right():
    graph = torch_graph(fixed_batch([helper.make_node("Relu", ["h"], ["y"])]))
    assert graph.batchable()
    x = RNG.standard_normal((5, 2, 3)).astype(np.float32)
    alone = np.concatenate([graph.run({"x": x[k : k + 1]})["y"] for k in range(5)])
    np.testing.assert_allclose(graph.run({"x": x})["y"], alone, rtol=1e-5, atol=1e-6)


def test_fixed_batch_is_not_widened_where_examples_mix():
    graph = torch_graph(fixed_batch([helper.make_node("Softmax", ["h"], ["y"], axis=0)]))
    assert not graph.batchable()


def test_missing_and_unknown_inputs_are_named():
    graph = torch_graph(proto([MATMUL], X, Y, {"w": W44}))
    with pytest.raises(DataError, match="input 'x' is missing"):
        graph.run({})
    with pytest.raises(DataError, match="no input 'z'"):
        graph.run({**FEEDS, "z": FEEDS["x"]})


def test_an_operator_nobody_knows_is_refused_with_its_name():
    node = helper.make_node("Riddle", ["x"], ["y"], name="sphinx", domain="thebes")
    with pytest.raises(UnsupportedError, match=r"'Riddle'.*'sphinx'"):
        torch_graph(proto([node], X, Y, domains=[("thebes", 1)])).run(FEEDS)
