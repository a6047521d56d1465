"""What a look at the running model says of shapes and constants."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from onnxcompress import importer
from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.engine.channels.tracing import trace
from onnxcompress.engine.channels.unsharing import UNSHARED, unshared

DYNAMIC = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N, 6, L] x) => (float[A, B, C] y)
<float[6] b = {1, 2, 3, 4, 5, 6}, int64[1] zero = {0}, int64[1] one = {1}, int64[2] rest = {2, -1}>
{
    shape = Shape (x)
    batch = Gather (shape, zero)
    channels = Gather (shape, one)
    target = Concat <axis = 0> (batch, rest)
    r = Reshape (x, target)
    root = Cast <to = 1> (channels)
    scale = Sqrt (root)
    y0 = Div (r, scale)
    y = Reshape (y0, shape)
}
"""


def model_of(text: str):
    return importer.load(parser.parse_model(text))


def test_what_differs_between_two_sizes_is_dynamic():
    model = model_of(DYNAMIC)
    seen = trace(model, {"x": (2, 6, 5)})
    values = {v.name: v for v in seen.shapes}
    assert seen.shapes[values["r"]] == (2, 2, 15)
    assert seen.dynamic[values["x"]] == {0, 2}
    assert seen.dynamic[values["r"]] == {0, 2}
    assert values["b"] not in seen.dynamic


LENGTHS = """
<ir_version: 8, opset_import: ["": 17]>
g (float[time, batch, 6] x, int32[batch] lengths) => (float[1, batch, 2] y)
{
    all, y = GRU <hidden_size = 2> (x, w, r, , lengths)
}
"""


def test_lengths_of_sequences_are_no_longer_than_these():
    """Where sizes are filled in, the number of features is not the longest of the open ones."""
    proto = parser.parse_model(LENGTHS)
    for name, shape in {"w": (1, 6, 6), "r": (1, 6, 2)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    seen = trace(importer.load(proto), {"x": (3, 2, 6), "lengths": (2,)})
    values = {v.name: v for v in seen.shapes}
    assert seen.shapes[values["y"]] == (1, 2, 2)
    assert seen.dynamic[values["y"]] == {1}


POSITIONS = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N, T, 2] x) => (float[N, T, 2] y)
<float[4, 2] table = {1, 2, 3, 4, 5, 6, 7, 8}, int64[1] zero = {0}, int64[1] one = {1}>
{
    shape = Shape (x)
    steps = Gather (shape, one)
    known = Slice (table, zero, steps, zero)
    y = Add (x, known)
}
"""


def test_sizes_that_cannot_grow_shrink():
    """The longest input a table of positions allows: one step more does not run."""
    seen = trace(model_of(POSITIONS), {"x": (1, 4, 2)})
    values = {v.name: v for v in seen.shapes}
    assert seen.dynamic[values["y"]] == {0, 1}
    assert seen.dynamic[values["known"]] == {0}


def test_a_value_computed_from_a_static_length_is_constant():
    model = model_of(DYNAMIC)
    seen = trace(model, {"x": (2, 6, 5)})
    values = {v.name: v for v in seen.arrays}
    np.testing.assert_allclose(seen.arrays[values["scale"]], [np.sqrt(6)])
    assert values["scale"] in seen.constant
    assert values["channels"] in seen.constant
    assert values["target"] not in seen.constant
    assert seen.arrays[values["target"]].tolist() == [2, 2, -1]


def test_a_model_that_does_not_run_is_refused_in_words():
    model = model_of(DYNAMIC.replace("{2, -1}", "{7, -1}"))
    with pytest.raises(OnnxCompressError):
        trace(model, {"x": (2, 6, 5)})


SHARED = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1, 3] x) => (float[1, 3] y)
<float[3] b = {1, 2, 3}, float[3, 3] w = {1, 0, 0, 0, 1, 0, 0, 0, 1}>
{
    h = Gemm (x, w, b)
    y = Gemm (h, w, b)
}
"""


def test_small_constants_are_unshared_and_large_ones_stay_tied():
    model = model_of(SHARED)
    clone = unshared(model)
    first, second = (n for n in clone.ir.graph if n.op_type == "Gemm")
    assert first.inputs[2] is not second.inputs[2]
    assert first.inputs[1] is second.inputs[1]
    assert second.inputs[2].meta[UNSHARED] == "b"
    np.testing.assert_array_equal(
        second.inputs[2].producer().attributes["value"].as_tensor().numpy(), [1, 2, 3]
    )
    assert len(list(model.ir.graph)) == 2, "the model itself is not changed"


def test_what_unsharing_makes_is_valid():
    clone = unshared(model_of(SHARED))
    onnx.checker.check_model(ir.serde.serialize_model(clone.ir), full_check=True)


BY_DATA = """
<ir_version: 8, opset_import: ["": 17]>
g (float[8] x) => (float[K] y)
<float limit = {-0.2}>
{
    c = Greater (x, limit)
    i = NonZero (c)
    j = Squeeze (i)
    y = Gather (x, j)
}
"""


def test_a_length_that_data_decide_is_dynamic():
    model = model_of(BY_DATA)
    seen = trace(model, {"x": (8,)})
    values = {v.name: v for v in seen.shapes}
    assert seen.dynamic[values["y"]] == {0}
    assert values["c"] not in seen.dynamic


EXPANDED = """
<ir_version: 10, opset_import: ["": 21]>
g (float[N, 8, 6] x) => (float[N, 8, 6] y)
<float[8] scale = {1, 2, 3, 4, 5, 6, 7, 8}, float[8] bias = {0, 0, 0, 0, 0, 0, 0, 0}>
{
    normal = GroupNormalization <num_groups = 2> (x, scale, bias)
    soft = Mish (normal)
    y = Relu (soft)
}
"""


def test_a_value_between_two_operators_that_onnxruntime_takes_apart_has_a_shape(caplog):
    """Neither of them is recorded, and inference knows no shape of what GroupNormalization gives."""
    model = model_of(EXPANDED)
    seen = trace(model, {"x": (3, 8, 6)})
    values = {v.name: v for v in seen.shapes}
    assert seen.shapes[values["normal"]] == seen.shapes[values["soft"]] == (3, 8, 6)
    assert seen.dynamic[values["normal"]] == {0}
    assert not caplog.records, "onnx_ir warns of shapes without a type"
