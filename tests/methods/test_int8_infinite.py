"""int8 of a model whose activations are infinite on the data: such layers stay float, with a reason."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxcompress
from onnxcompress.core.errors import NothingChangedError

RNG = np.random.default_rng(0)
ROWS = {"x": np.abs(RNG.standard_normal((120, 16))).astype(np.float32)}
LIMITS = {"low": np.float32(0), "high": np.float32(6), "huge": np.full(1, 3e38, np.float32)}
OVERFLOWING = [
    helper.make_node("MatMul", ["x", "big"], ["inf"]),
    helper.make_node("MatMul", ["inf", "behind"], ["sum"]),
    helper.make_node("Clip", ["sum", "low", "high"], ["z"]),
]
FINITE = [
    helper.make_node("MatMul", ["x", "first"], ["h"]),
    helper.make_node("Relu", ["h"], ["r"]),
    helper.make_node("MatMul", ["r", "second"], ["y"]),
]
CARRIED = [
    helper.make_node("MatMul", ["x", "first"], ["h"]),
    helper.make_node("Mul", ["h", "huge"], ["m"]),
    helper.make_node("Clip", ["m", "low", "high"], ["r"]),
    helper.make_node("MatMul", ["r", "second"], ["y"]),
]


def model_of(nodes):
    weights = {
        "big": (0.5 + RNG.random((16, 16))) * 1e38,
        "behind": np.abs(RNG.standard_normal((16, 4))),
        "first": RNG.standard_normal((16, 32)),
        "second": RNG.standard_normal((32, 4)),
        **LIMITS,
    }
    made = {output for node in nodes for output in node.output}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "overflow",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 4]) for n in ("y", "z") if n in made],
        [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in weights.items() if n in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("way", ["static", "dynamic", "auto"])
def test_layers_with_infinite_activations_stay_float(way):
    done = onnxcompress.compress(model_of([*OVERFLOWING, *FINITE]), method="int8", way=way, data=ROWS)
    assert {weight.name for weight in done.run.weights} == {"first", "second"}
    told = {refusal.where: refusal.why for refusal in done.run.refusals}
    assert set(told) == {"big", "behind"}
    assert all("'inf' is infinite or no number on all calibration data" in why for why in told.values())


@pytest.mark.parametrize("way", ["static", "dynamic", "auto"])
def test_a_model_of_such_layers_alone_is_told_what_is_wrong(way):
    with pytest.raises(NothingChangedError, match=r"big \(and 1 more\): 'inf' is infinite or no number"):
        onnxcompress.compress(model_of(OVERFLOWING), method="int8", way=way, data=ROWS, benchmark=False)


def test_an_infinite_value_between_two_layers_is_not_handed_on_with_8_bits():
    done = onnxcompress.compress(model_of(CARRIED), method="int8", way="static", data=ROWS, benchmark=False)
    assert {weight.name for weight in done.run.weights} == {"first", "second"}


def test_numbers_of_both_signs_near_the_end_of_the_type_have_a_range():
    """The length of the range, up to 5e38, is no number of the type."""
    model = model_of([CARRIED[0], helper.make_node("Clip", ["h", "low", "high"], ["r"]), CARRIED[-1]])
    first = next(t for t in model.graph.initializer if t.name == "first")
    weight = numpy_helper.to_array(first)
    scale = np.float32(2.5e38 / np.abs(ROWS["x"] @ weight).max())
    first.CopyFrom(numpy_helper.from_array(weight * scale, "first"))
    done = onnxcompress.compress(model, method="int8", way="static", data=ROWS, benchmark=False)
    assert {weight.name for weight in done.run.weights} == {"first", "second"}
