"""int8 of a model that is quantised in part: what is float is quantised, nothing is rounded twice."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxcompress
from onnxcompress.core.errors import NothingChangedError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS = {"data": FIXTURES / "digits.npz", "method": "int8", "way": "static", "benchmark": False}
LAYERS = ("conv1*", "conv2*", "fc1*", "fc2*")


def scales_in_a_row(model: onnx.ModelProto) -> list[str]:
    """Return the values that go from one pair of QuantizeLinear and DequantizeLinear into another."""
    made = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return [n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in made]


@pytest.mark.parametrize("later", LAYERS)
def test_the_layer_left_float_is_quantised_and_no_value_is_rounded_twice(later):
    part = onnxcompress.compress(FIXTURES / "digits_cnn.onnx", exclude=(later,), **DIGITS)
    whole = onnxcompress.compress(part.model, **DIGITS)
    assert len(whole.run.weights) == 1
    assert not scales_in_a_row(whole.model)
    assert whole.run.comparisons[0].outputs[0].relative_l2 < 0.02
    with pytest.raises(NothingChangedError, match="whole numbers of at most 8 bits already"):
        onnxcompress.compress(whole.model, **DIGITS)


def test_scales_of_biases_are_those_of_the_grid_that_was_there():
    part = onnxcompress.compress(FIXTURES / "digits_cnn.onnx", exclude=("conv2*",), **DIGITS)
    scale = next(t for t in part.model.graph.initializer if t.name == "a1_scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(3), "a1_scale"))
    whole = onnxcompress.compress(part.model, **DIGITS)
    arrays = {t.name: numpy_helper.to_array(t) for t in whole.model.graph.initializer}
    bias, weight = arrays["conv2.bias_quantized_scale"], arrays["conv2.weight_scale"]
    np.testing.assert_allclose(bias, weight * arrays["a1_scale"], rtol=1e-5)


def without_zero_points(model: onnx.ModelProto) -> int:
    """Leave out the zero points that are 0 of unsigned numbers, as the operators allow; return how many."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    count = 0
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in arrays:
            zero = arrays[node.input[2]]
            if zero.dtype == np.uint8 and not zero.any():
                del node.input[2:]
                count += 1
    return count


@pytest.mark.parametrize("later", LAYERS)
def test_a_zero_point_may_be_left_out(later):
    part = onnxcompress.compress(FIXTURES / "digits_cnn.onnx", exclude=(later,), **DIGITS)
    assert without_zero_points(part.model)
    whole = onnxcompress.compress(part.model, **DIGITS)
    assert len(whole.run.weights) == 1
    assert not scales_in_a_row(whole.model)
