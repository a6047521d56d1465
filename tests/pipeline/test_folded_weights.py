"""A constant that is folded into a bias is gone from the file, and from the report's list of weights."""

import numpy as np
import onnx
import pytest

import onnxcompress


@pytest.mark.parametrize("fold", [True, False])
def test_a_folded_constant_is_not_told_as_stored(fold):
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[N, 300] x) => (float[N, 40] y) {centred = Sub(x, mean) y = Gemm(centred, w, b)}""")
    shapes = {"mean": (300,), "w": (300, 40), "b": (40,)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    data = {"x": rng.standard_normal((40, 300)).astype(np.float32)}
    found = onnxcompress.compress(
        model, method="lc-quant", entries=2, steps=1, epochs=1.0, lr=0.1, data=data, fold=fold
    )
    told = {weight.name for weight in found.run.weights}
    assert told == ({"w", "b"} if fold else {"mean", "w", "b"})
    stored = {tensor.name for tensor in found.model.graph.initializer}
    assert ("mean" in stored) is not fold
