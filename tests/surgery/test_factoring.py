"""Two layers for one: outputs in onnxruntime are those of the weight multiplied out, whatever uses it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.errors import VerificationError
from onnxcompress.core.model import Model, Source
from onnxcompress.encodings._layout import Layout, layouts_of
from onnxcompress.encodings.lowrank import FixedRank, LowRank
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.factors import ways, work
from onnxcompress.engine.measures.costs import count_macs
from onnxcompress.engine.proto import from_proto, to_proto
from onnxcompress.engine.runtime import open_session
from onnxcompress.surgery.factoring import FactoredModel, factor
from onnxcompress.surgery.factoring_proof import prove_factoring

RANK = 2


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def model_of(nodes, weights, x_shape, y_rank, *, opset=17, ir_version=8, dtype=np.float32) -> Model:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensors = [
        numpy_helper.from_array(a if a.dtype == np.int64 else a.astype(dtype), n) for n, a in weights.items()
    ]
    integers = nodes[0].op_type == "Gather"
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT64 if integers else kind, x_shape)]
    if ir_version < 4:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    outputs = [helper.make_tensor_value_info("y", kind, [None] * y_rank)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return Model(from_proto(proto), Source(None, "", 0))


def input_of(model: Model) -> dict[str, np.ndarray]:
    value = next(v for v in model.ir.graph.inputs if v.name == "x")
    shape = [int(d) for d in value.shape]
    if value.dtype.numpy() == np.int64:
        return {"x": np.arange(np.prod(shape)).reshape(shape) % 5}
    return {"x": normal(*shape, seed=9).astype(value.dtype.numpy())}


def outputs(model: Model) -> dict[str, np.ndarray]:
    return open_session(to_proto(model.ir).SerializeToString()).run(input_of(model))


def low_rank(model: Model, name: str, scheme: str = "1", rank: int = RANK) -> Model:
    found = ways(model.weights[name], scheme)  # type: ignore[arg-type]
    assert not isinstance(found, str), found
    encoding = FixedRank(rank, layouts=found.layouts[:1]).project([model.array(name)])[0]
    return model.with_encodings({name: encoding}, "test")


def check(model: Model, *, tolerance: float = 1e-5) -> FactoredModel:
    """Factor, and compare with the product in onnxruntime and in float64."""
    result = factor(model)
    assert result.layers
    assert not result.kept
    expected, found = outputs(model)["y"], outputs(result.model)["y"]
    assert found.dtype == expected.dtype
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)
    onnx.checker.check_model(to_proto(result.model.ir), full_check=True)
    assert not set(result.layers) & set(result.model.weights)
    shape = {"x": input_of(model)["x"].shape}
    proof = prove_factoring(model, result, shape)
    assert proof is not None
    assert proof.error < 1e-12
    assert proof.places >= 1
    before, after = (sum(count_macs(m, shape).by_node.values()) for m in (model, result.model))
    predicted = sum(_work_change(model, n, layer.encoding, shape) for n, layer in result.layers.items())
    assert after == before + predicted
    return result


def _work_change(model: Model, name: str, encoding: LowRank, shape) -> float:
    traced = {v.name: s for v, s in analyse(model, shape).ground.trace.shapes.items()}
    found = ways(model.weights[name])
    assert not isinstance(found, str)
    options = work(found, encoding.shape, lambda v: traced.get(v.name))
    assert options is not None
    cost = next(o.cost for o in options.ways if encoding.layout in (o.layout, o.layout.turned))
    return cost * encoding.rank - options.whole


CONVOLUTIONS = {
    "plain": ((2, 5, 7, 8), (6, 5, 3, 3), {}),
    "strides and pads": ((2, 5, 9, 8), (6, 5, 3, 2), {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    "dilations": ((1, 4, 9, 9), (6, 4, 3, 3), {"dilations": [2, 1], "pads": [2, 1, 2, 1]}),
    "same upper": ((1, 4, 9, 8), (6, 4, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "same lower": ((1, 4, 9, 8), (6, 4, 4, 3), {"auto_pad": "SAME_LOWER"}),
    "valid": ((1, 4, 9, 8), (6, 4, 4, 3), {"auto_pad": "VALID", "kernel_shape": [4, 3]}),
    "one axis": ((2, 4, 9), (6, 4, 3), {"pads": [1, 1], "strides": [2]}),
    "three axes": ((1, 3, 5, 6, 5), (6, 3, 3, 2, 3), {"pads": [1, 0, 1, 1, 1, 1], "strides": [1, 2, 2]}),
    "pointwise": ((1, 6, 5, 5), (8, 6, 1, 1), {"strides": [2, 2]}),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scheme", ["1", "2"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_become_two(case: str, scheme: str, bias: bool) -> None:
    x, w, attributes = CONVOLUTIONS[case]
    weights = {"w": normal(*w), **({"b": normal(w[0])} if bias else {})}
    node = helper.make_node("Conv", ["x", *weights], ["y"], "conv", **attributes)
    result = check(low_rank(model_of([node], weights, x, len(x)), "w", scheme))
    nodes = list(result.model.ir.graph)
    assert [n.name for n in nodes] == ["conv_in", "conv"]
    assert [n.op_type for n in nodes] == ["Conv", "Conv"]
    assert {"w_in", "w_out"} <= set(result.model.weights)
    assert len(nodes[0].inputs) == 2, "a bias before the second padding would not stay outside"


def test_a_transposed_convolution_gets_one_in_front() -> None:
    weights = {"w": normal(6, 5, 3, 3), "b": normal(5)}
    attributes = {"strides": [2, 2], "pads": [1, 0, 1, 2], "output_padding": [1, 0]}
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], "up", **attributes)
    result = check(low_rank(model_of([node], weights, (2, 6, 4, 5), 4), "w"))
    assert [n.op_type for n in result.model.ir.graph] == ["Conv", "ConvTranspose"]


@pytest.mark.parametrize("opset", [7, 17])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("slot", [0, 1])
def test_gemm_with_every_attribute(slot: int, turned: bool, opset: int) -> None:
    for own in (0, 1):
        w = normal(6, 9) if turned == bool(slot) else normal(9, 6)
        x = (4, 9) if not own else (9, 4)
        if slot == 0:
            w, x = (normal(9, 6) if turned else normal(6, 9)), ((9, 4) if not own else (4, 9))
        flags = {"transB": int(turned), "transA": own} if slot else {"transA": int(turned), "transB": own}
        inputs = ["x", "w"] if slot else ["w", "x"]
        weights = {"w": w, "c": normal(6) if slot else normal(6, 1)}
        node = helper.make_node("Gemm", [*inputs, "c"], ["y"], "fc", alpha=0.5, beta=0.3, **flags)
        result = check(low_rank(model_of([node], weights, x, 2, opset=opset), "w"))
        assert result.model.ir.graph[-1].name == "fc"


@pytest.mark.parametrize("slot", [0, 1])
def test_products_on_both_sides_and_with_several_axes(slot: int) -> None:
    x, w = ((2, 3, 9), normal(9, 6)) if slot else ((2, 9, 3), normal(6, 9))
    node = helper.make_node("MatMul", ["x", "w"] if slot else ["w", "x"], ["y"], "")
    result = check(low_rank(model_of([node], {"w": w}, x, 3), "w"))
    assert [n.op_type for n in result.model.ir.graph] == ["MatMul", "MatMul"]


def test_a_weight_that_is_transposed_first() -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["y"], "fc"),
    ]
    result = check(low_rank(model_of(nodes, {"w": normal(6, 9)}, (4, 9), 2), "w"))
    assert [n.op_type for n in result.model.ir.graph] == ["MatMul", "MatMul"], "the Transpose has gone"


def test_a_weight_that_is_reshaped_first() -> None:
    nodes = [
        helper.make_node("Reshape", ["w", "to"], ["flat"]),
        helper.make_node("MatMul", ["x", "flat"], ["y"], "fc"),
    ]
    weights = {"w": normal(3, 2, 2, 6), "to": np.array([-1, 6])}
    result = check(low_rank(model_of(nodes, weights, (4, 12), 2), "w"))
    assert next(iter(result.layers.values())).encoding.layout == Layout((0, 1, 2), (3,))
    assert len(result.model.ir.graph) == 2


def test_an_embedding_is_looked_up_in_one_factor() -> None:
    node = helper.make_node("Gather", ["w", "x"], ["y"], "embed")
    result = check(low_rank(model_of([node], {"w": normal(40, 12)}, (2, 3), 3), "w"))
    assert [n.name for n in result.model.ir.graph] == ["embed", "embed_out"]


def test_a_tied_embedding_is_stored_once() -> None:
    nodes = [
        helper.make_node("Gather", ["w", "x"], ["h"], "embed"),
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["h", "wt"], ["y"], "logits"),
    ]
    result = check(low_rank(model_of(nodes, {"w": normal(40, 12)}, (2, 3), 3), "w"))
    assert sum(w.size for w in result.model.weights.values()) == RANK * (40 + 12)


def test_one_weight_of_several_layers() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w"], ["y"], "second", transB=1),
    ]
    result = check(low_rank(model_of(nodes, {"w": normal(9, 9)}, (4, 9), 2), "w"))
    assert sum(w.size for w in result.model.weights.values()) == RANK * 18


@pytest.mark.parametrize(("ir_version", "opset"), [(3, 7), (3, 9), (8, 17)])
def test_the_version_of_the_file_stays(ir_version: int, opset: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    model = model_of([node], {"w": normal(6, 5, 3, 3)}, (1, 5, 6, 6), 4, opset=opset, ir_version=ir_version)
    result = check(low_rank(model, "w"))
    assert result.model.ir.ir_version == ir_version
    assert [v.name for v in result.model.ir.graph.inputs] == ["x"]
    assert not result.warnings


def test_other_types() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1])
    model = model_of([node], {"w": normal(6, 5, 3, 3)}, (1, 5, 6, 6), 4, dtype=np.float16)
    assert check(low_rank(model, "w", "2"), tolerance=2e-3).model.array("w_in").dtype == np.float16
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "fc")
    model = model_of([node], {"w": normal(9, 6)}, (4, 9), 2, dtype=np.float64)
    assert check(low_rank(model, "w"), tolerance=1e-12).model.array("w_in").dtype == np.float64


def test_constants_stay_constants_and_names_that_are_taken_stay_theirs() -> None:
    tensor = numpy_helper.from_array(normal(9, 6).astype(np.float32), "w")
    nodes = [
        helper.make_node("Constant", [], ["w"], "weight", value=tensor),
        helper.make_node("Relu", ["x"], ["w_in"], "fc_in"),
        helper.make_node("MatMul", ["w_in", "w"], ["y"], "fc"),
    ]
    result = check(low_rank(model_of(nodes, {}, (4, 9), 2), "w"))
    names = [n.name for n in result.model.ir.graph]
    assert len(set(names)) == len(names) == 5
    assert sum(n.op_type == "Constant" for n in result.model.ir.graph) == 2


def test_a_layer_inside_a_branch() -> None:
    def branch(name: str, operator: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        inner = numpy_helper.from_array(normal(9, 6).astype(np.float32), "inner")
        nodes = [
            helper.make_node("MatMul", ["x", "inner"], ["h"], "fc"),
            helper.make_node(operator, ["h"], [name]),
        ]
        return helper.make_graph(nodes, name, [], [output], [inner])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node(
            "If", ["c"], ["y"], "if", then_branch=branch("a", "Relu"), else_branch=branch("b", "Tanh")
        ),
    ]
    model = model_of(nodes, {"zero": np.zeros(())}, (4, 9), 2)
    names = [n for n in model.weights if n.endswith("inner")]
    encodings = {n: FixedRank(RANK).project([model.array(n)])[0] for n in names}
    encoded = model.with_encodings(encodings, "test")
    result = factor(encoded)
    assert set(result.layers) == set(names)
    assert {layer.left for layer in result.layers.values()} <= set(result.model.weights)
    expected, found = outputs(encoded)["y"], outputs(result.model)["y"]
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


REFUSED = {
    "a convolution in groups": (
        [helper.make_node("Conv", ["x", "w"], ["y"], "c", group=2)],
        {"w": normal(6, 2, 3, 3)}, (1, 4, 5, 5), 4, "in groups",
    ),
    "a product of several matrices": (
        [helper.make_node("MatMul", ["x", "w"], ["y"], "c")],
        {"w": normal(2, 9, 6)}, (2, 4, 9), 3, "has 3 axes",
    ),
    "a recurrent layer": (
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], "c", hidden_size=3)],
        {"w": normal(1, 12, 9), "r": normal(1, 12, 3)}, (5, 1, 9), 4, "LSTM 'c', which cannot",
    ),
    "element-wise use": (
        [helper.make_node("Add", ["w", "one"], ["w1"]), helper.make_node("MatMul", ["x", "w1"], ["y"], "c")],
        {"w": normal(9, 6), "one": np.ones(6)}, (4, 9), 2, "is used by Add",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_the_weight_itself_says_so_and_stays_one(case: str) -> None:
    nodes, weights, x, rank, why = REFUSED[case]
    model = model_of(nodes, weights, x, rank)
    found = ways(model.weights["w"])
    assert isinstance(found, str)
    assert why in found
    shape = weights["w"].shape
    layout = (
        layouts_of(len(shape), "1")[0]
        if len(shape) > 3
        else Layout((*range(len(shape) - 1),), (len(shape) - 1,))
    )
    encoding = FixedRank(2, layouts=(layout,)).project([model.array("w")])[0]
    encoded = model.with_encodings({"w": encoding}, "test")
    result = factor(encoded)
    assert not result.layers
    assert [r.where for r in result.kept] == ["w"]
    assert "nothing is faster" in result.warnings[0]
    assert np.array_equal(outputs(result.model)["y"], outputs(encoded)["y"])


def test_the_factors_are_found_again_in_the_file() -> None:
    for scheme in ("1", "2"):
        node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
        model = low_rank(model_of([node], {"w": normal(6, 5, 3, 3)}, (1, 5, 6, 6), 4), "w", scheme)
        result = factor(model)
        layer = result.layers["w"]
        left, right = layer.factors(*(result.model.array(n) for n in (layer.left, layer.right)))
        assert np.array_equal(left, layer.encoding.left)
        assert np.array_equal(right, layer.encoding.right)


def test_the_proof_notices_a_factor_that_is_off() -> None:
    """Negative control: one entry of one factor changed by a millionth."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    model = low_rank(model_of([node], {"w": normal(6, 5, 3, 3)}, (1, 5, 6, 6), 4), "w")
    result = factor(model)
    array = result.model.array("w_in").copy()
    array[0, 0, 0, 0] *= 1 + 1e-6
    value = result.model.weights["w_in"].value
    value.const_value = from_array(array)
    with pytest.raises(VerificationError, match="two layers do not compute"):
        prove_factoring(model, result, {"x": (1, 5, 6, 6)})


def from_array(array: np.ndarray):
    import onnx_ir as ir

    return ir.tensor(array, name="w_in")
