from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.errors import UsageError
from onnxcompress.core.model import Model, Source
from onnxcompress.engine.layers import layers, left_alone, select

RNG = np.random.default_rng(0)


def tensor(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name)


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model_of(
    nodes, initializers, *, inputs=(("x", (None,)),), outputs=("y",), functions=(), opset=17
) -> Model:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    return Model(ir.serde.deserialize_model(proto), Source(None, "", 0))


def node(op, inputs, outputs, name="", **attributes):
    return helper.make_node(op, inputs, outputs, name, **attributes)


def only(model: Model):
    (layer,) = layers(model)
    return layer


@pytest.mark.parametrize(
    ("op", "inputs", "shape", "attributes", "axis"),
    [
        ("Conv", ["x", "W", "b"], (8, 3, 3, 3), {}, 0),
        ("ConvTranspose", ["x", "W", "b"], (3, 8, 3, 3), {}, 1),
        ("Gemm", ["x", "W", "b"], (5, 8), {}, 1),
        ("Gemm", ["x", "W", "b"], (8, 5), {"transB": 1}, 0),
        ("Gemm", ["W", "x", "b"], (8, 5), {}, 0),
        ("Gemm", ["W", "x", "b"], (5, 8), {"transA": 1}, 1),
        ("MatMul", ["x", "W"], (5, 8), {}, 1),
        ("MatMul", ["W", "x"], (8, 5), {}, 0),
        ("MatMul", ["x", "W"], (2, 5, 8), {}, 2),
        ("Einsum", ["x", "W"], (5, 8), {"equation": "bi,io->bo"}, 1),
        ("Einsum", ["W", "x"], (8, 5), {"equation": "oi,bi->bo"}, 0),
        ("LSTM", ["x", "W", "R"], (1, 16, 3), {"hidden_size": 4}, 1),
    ],
)
def test_direct_use(op, inputs, shape, attributes, axis):
    extra = [tensor("b", 8)] if "b" in inputs else []
    extra += [tensor("R", 1, 16, 4)] if op == "LSTM" else []
    model = model_of([node(op, inputs, ["y"], "n", **attributes)], [tensor("W", *shape), *extra])
    found = {layer.weight: layer for layer in layers(model)}
    assert set(found) == ({"W", "R"} if op == "LSTM" else {"W"})
    assert found["W"].out_axis == axis
    assert found["W"].role == ("recurrent" if op == "LSTM" else "contraction")
    assert [(c.node, c.op_type) for c in found["W"].consumers] == [("n", op)]


@pytest.mark.parametrize(
    ("moves", "axis"),
    [
        ([("Identity", ["W"], {})], 1),
        ([("Transpose", ["W"], {"perm": [1, 0]})], 0),
        ([("Cast", ["W"], {"to": 1}), ("Transpose", ["v0"], {})], 0),
        ([("Unsqueeze", ["W", "zero"], {})], 1),
        ([("Unsqueeze", ["W", "zero"], {}), ("Squeeze", ["v0", "zero"], {})], 1),
        ([("Reshape", ["W", "same"], {})], 1),
        ([("Reshape", ["W", "front"], {})], 1),
        ([("Reshape", ["W", "mixed"], {})], None),
        ([("Mul", ["W", "scale"], {})], 1),
    ],
)
def test_weight_reaches_its_consumer_through_movement(moves, axis):
    nodes = [node(op, inputs, [f"v{i}"], **attrs) for i, (op, inputs, attrs) in enumerate(moves)]
    nodes.append(node("MatMul", ["x", nodes[-1].output[0]], ["y"], "m"))
    constants = [
        ints("zero", 0),
        ints("same", 6, 8),
        ints("front", 2, 3, 8),
        ints("mixed", 4, 12),
        tensor("scale", 8),
    ]
    layer = only(model_of(nodes, [tensor("W", 6, 8), *constants]))
    assert layer.weight == "W"
    assert layer.out_axis == axis


def test_biases_normalisation_and_elementwise_constants_are_no_layers():
    model = model_of(
        [
            node("Sub", ["x", "mean"], ["c"], "centre"),
            node("Conv", ["c", "W", "b"], ["h"], "conv"),
            node("BatchNormalization", ["h", "g", "be", "mu", "var"], ["n"], "norm"),
            node("Add", ["n", "plane"], ["y"], "add"),
        ],
        [tensor("mean", 1, 3, 1, 1), tensor("W", 8, 3, 3, 3), tensor("plane", 1, 8, 4, 4)]
        + [tensor(n, 8) for n in ("b", "g", "be", "mu", "var")],
        inputs=(("x", (1, 3, 6, 6)),),
    )
    found = layers(model)
    assert [layer.weight for layer in found] == ["W"]
    refusals = {r.where: r.why for r in left_alone(model, found)}
    assert set(refusals) == {"mean", "plane"}
    assert "Sub 'centre'" in refusals["mean"]


def test_embedding_and_tied_output():
    model = model_of(
        [
            node("Cast", ["x"], ["i"], to=7),
            node("Gather", ["E", "i"], ["h"], "lookup"),
            node("Transpose", ["E"], ["Et"], perm=[1, 0]),
            node("MatMul", ["h", "Et"], ["y"], "out"),
        ],
        [tensor("E", 50, 8)],
    )
    layer = only(model)
    assert layer.role == "contraction"
    assert [c.node for c in layer.consumers] == ["lookup", "out"]
    assert layer.out_axis == 0


def test_gather_with_constant_rows_moves_a_weight():
    model = model_of(
        [node("Gather", ["W", "rows"], ["w"]), node("MatMul", ["x", "w"], ["y"], "m")],
        [tensor("W", 6, 8), ints("rows", 0, 2)],
    )
    assert [c.op_type for c in only(model).consumers] == ["MatMul"]


def test_split_and_concat_reach_several_consumers():
    model = model_of(
        [
            node("Concat", ["A", "B"], ["W"], axis=0),
            node("Split", ["W"], ["p", "q"], axis=1),
            node("MatMul", ["x", "p"], ["u"], "first"),
            node("MatMul", ["x", "q"], ["v"], "second"),
            node("Add", ["u", "v"], ["y"]),
        ],
        [tensor("A", 3, 8), tensor("B", 3, 8)],
    )
    found = layers(model)
    assert [layer.weight for layer in found] == ["A", "B"]
    assert all([c.node for c in layer.consumers] == ["first", "second"] for layer in found)


def test_nested_graphs_and_outer_weights():
    def branch(name: str, weight: str, own: bool) -> onnx.GraphProto:
        inits = [tensor(weight, 4, 4)] if own else []
        result = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph(
            [node("MatMul", ["x", weight], [f"{name}_y"], "m")], name, [], [result], inits
        )

    model = model_of(
        [
            node("ReduceMax", ["x"], ["big"], keepdims=0),
            node("Cast", ["big"], ["c"], to=9),
            node(
                "If",
                ["c"],
                ["y"],
                "choose",
                then_branch=branch("t", "W", True),
                else_branch=branch("e", "V", False),
            ),
        ],
        [tensor("V", 4, 4)],
        inputs=(("x", (2, 4)),),
    )
    found = {layer.weight: layer for layer in layers(model)}
    assert set(found) == {"choose.then_branch/W", "V"}
    assert found["V"].consumers[0].node == "choose.else_branch/m"


def test_weight_handed_out_of_a_branch():
    def branch(name: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, (4, 4))
        return helper.make_graph([], name, [], [result], [tensor(name, 4, 4)])

    nodes = [
        node("ReduceMax", ["x"], ["big"], keepdims=0),
        node("Cast", ["big"], ["c"], to=9),
        node("If", ["c"], ["w"], "choose", then_branch=branch("T"), else_branch=branch("E")),
        node("MatMul", ["x", "w"], ["y"], "m"),
    ]
    found = layers(model_of(nodes, [], inputs=(("x", (2, 4)),)))
    assert {layer.weight for layer in found} == {"choose.then_branch/T", "choose.else_branch/E"}
    assert {c.node for layer in found for c in layer.consumers} == {"m"}


def test_function_call():
    function = helper.make_function(
        "local", "Dense", ["a", "w"], ["r"], [node("MatMul", ["a", "w"], ["r"], "inner")],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    model = model_of([node("Dense", ["x", "W"], ["y"], "d", domain="local")], [tensor("W", 4, 4)],
                     functions=[function])  # fmt: skip
    assert [c.op_type for c in only(model).consumers] == ["MatMul"]


def test_constants_in_the_body_of_a_function_are_told():
    inner = numpy_helper.from_array(np.ones((4, 4), np.float32), "inside")
    bias = numpy_helper.from_array(np.ones(4, np.float32), "few")
    function = helper.make_function(
        "local", "Dense", ["a"], ["r"],
        [node("Constant", [], ["k"], value=inner), node("Constant", [], ["b"], value=bias),
         node("MatMul", ["a", "k"], ["m"]), node("Add", ["m", "b"], ["r"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    model = model_of([node("Dense", ["x"], ["y"], "d", domain="local")], [], functions=[function])
    (refusal,) = left_alone(model, layers(model))
    assert refusal.where == "Dense/k"
    assert "stays dense" in refusal.why


def test_loop_body_uses_a_carried_weight():
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("MatMul", ["s", "w"], ["s2"], "inner"),
         node("Identity", ["w"], ["w2"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ()),
         helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("s", TensorProto.FLOAT, None),
         helper.make_tensor_value_info("w", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("s2", TensorProto.FLOAT, None),
         helper.make_tensor_value_info("w2", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = model_of(
        [node("Loop", ["trips", "", "x", "W"], ["y", "unused"], "loop", body=body)],
        [tensor("W", 4, 4), numpy_helper.from_array(np.array(3, np.int64), "trips")],
        inputs=(("x", (2, 4)),),
    )
    assert only(model).consumers[0].node == "loop.body/inner"


def test_constant_node_weights():
    constant = helper.make_node("Constant", [], ["W"], "c", value=tensor("W", 4, 6))
    assert only(model_of([constant, node("MatMul", ["x", "W"], ["y"], "m")], [])).weight == "W"


def two_layers() -> Model:
    return model_of(
        [node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["h"], "fc1"),
         node("Gemm", ["h", "fc2.weight", "fc1.bias"], ["y"], "head")],
        [tensor("fc1.weight", 4, 4), tensor("fc2.weight", 4, 4), tensor("fc1.bias", 4)],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        ((), (), ["fc1.weight", "fc2.weight"]),
        (("fc1.*",), (), ["fc1.weight"]),
        ((), ("head",), ["fc1.weight"]),
        (("fc*",), ("fc1.weight",), ["fc2.weight"]),
    ],
)
def test_select(include, exclude, chosen):
    assert [layer.weight for layer in select(layers(two_layers()), include, exclude)] == chosen


def test_select_takes_names_with_brackets_literally():
    model = model_of([node("MatMul", ["x", "w[0]"], ["y"], "m")], [tensor("w[0]", 2, 2)])
    assert len(select(layers(model), ("w[0]",), ())) == 1


def test_unmatched_glob_names_close_ones():
    with pytest.raises(UsageError, match=r"--exclude 'fc1.wieght'.*'fc1.weight'"):
        select(layers(two_layers()), (), ("fc1.wieght",))


def test_glob_that_matches_a_bias_says_so():
    with pytest.raises(UsageError, match=r"'fc1.bias' is no contraction operand"):
        select(layers(two_layers()), ("*.bias",), (), others=["fc1.bias"])
