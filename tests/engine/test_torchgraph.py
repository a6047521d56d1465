"""The torch graph against onnxruntime: how weights may hide in a file, control flow, names, training."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.errors import DataError, UnsupportedError
from onnxcompress.core.model import Model, Source
from onnxcompress.engine import runtime
from onnxcompress.engine.torchgraph import TorchGraph

RNG = np.random.default_rng(0)
W44 = RNG.standard_normal((4, 4)).astype(np.float32)
FLOAT = TensorProto.FLOAT


def proto(nodes, inputs, outputs, initializers=None, *, opset=17, ir_version=8, functions=(), domains=()):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in (initializers or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=list(functions))


def torch_graph(model, **options):
    return TorchGraph(Model(ir.from_proto(model), Source(None, "", 0)), **options)


def reference(model):
    """Open a model as it is written: optimised, onnxruntime computes DequantizeLinear + MatMul in 8 bits."""
    return runtime.open_session(model.SerializeToString(), optimization="none")


def check(model, feeds, tolerance=1e-6, **options):
    """Compare the torch graph with onnxruntime on these feeds; return the graph."""
    graph = torch_graph(model, **options)
    expected = reference(model).run(feeds)
    found = graph.run(feeds)
    assert list(found) == list(expected)
    for name, want in expected.items():
        got = found[name]
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(got, want)
    return graph


def sgd_step(graph, feeds, lr=0.1):
    """Do one SGD step on the sum of squares of all float outputs; return the graph."""
    optimizer = torch.optim.SGD([graph.weight(n) for n in graph.trainable], lr=lr)
    outputs = graph({n: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for n, a in feeds.items()})
    loss = sum((o**2).sum() for o in outputs.values() if o.is_floating_point())
    loss.backward()
    optimizer.step()
    return graph


def written(model, graph):
    """Return the model with the graph's weights written into its initializers and Constant nodes."""
    clone = onnx.ModelProto()
    clone.CopyFrom(model)
    arrays = graph.arrays()
    for tensor in clone.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    for node in clone.graph.node:
        if node.op_type == "Constant" and node.output[0] in arrays:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(arrays[node.output[0]]))
    return clone


X = {"x": (FLOAT, [2, 4])}
Y = {"y": (FLOAT, [2, 4])}
FEEDS = {"x": RNG.standard_normal((2, 4)).astype(np.float32)}
MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])


def constant(name, array):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


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
