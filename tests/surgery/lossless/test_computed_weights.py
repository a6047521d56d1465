"""Weights that a file computes from constants: stored, equal bit by bit, and compressed like others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from text_graphs import model_of, proto_of

from onnxcompress import exporter, pipeline, surgery
from onnxcompress.engine import runtime
from onnxcompress.methods.lc_quant import LcQuant
from onnxcompress.methods.lossless import Lossless
from onnxcompress.methods.magnitude import Magnitude
from onnxcompress.recipe import Recipe

STANDARDISED = (
    "m = ReduceMean <axes = [1, 2, 3]> (a) d = Sub (a, m) q = Mul (d, d) "
    "v = ReduceMean <axes = [1, 2, 3]> (q) e = Add (v, eps) s = Sqrt (e) n = Div (d, s) w = Mul (n, gain) "
    "h = Conv (x, w) r = Relu (h) y = Conv (r, b)"
)
WEIGHTS = {"a": (16, 3, 3, 3), "eps": np.array(1e-5, np.float32), "gain": (16, 1, 1, 1), "b": (5, 16, 1, 1)}
SIGNATURE = ("float[N, 3, 8, 8] x", "float[N, 5, 6, 6] y")


def answer(model, x):
    return runtime.open_session(exporter.dense_bytes(model)).run({"x": x})["y"]


def test_standardised_weights_are_stored_bit_by_bit():
    model = model_of(STANDARDISED, *SIGNATURE, WEIGHTS)
    stored, names = surgery.store_computed_weights(model)
    assert len(names) == 1
    assert [n.op_type for n in stored.ir.graph] == ["Conv", "Relu", "Conv"]
    a, gain = model.array("a").astype(np.float64), model.array("gain")
    centred = a - a.mean((1, 2, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 2, 3), keepdims=True) + 1e-5) * gain
    np.testing.assert_allclose(stored.array("w"), expected, rtol=1e-5)
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(answer(stored, x), answer(model, x))
    assert len(model.ir.graph) == 11, "the model itself is left alone"


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("w = Transpose <perm = [1, 0]> (a) h = Gemm (f, w)", {"a": (4, 192)}),  # seen where it is stored
        ("w = Expand (a, shape) h = Gemm (f, w)", {"a": (192, 1), "shape": np.array([192, 4])}),  # larger
        ("w = Mul (a, a) z = Add (w, w) g = Gemm (f, w) h = Div (g, z)", {"a": (192, 192)}),  # read elsewhere
        ("k = ReduceMean <keepdims = 0> (f) w = Mul (a, k) h = Gemm (f, w)", {"a": (192, 4)}),  # of the data
    ],
)
def test_what_stays_computed(body, weights):
    model = model_of(f"f = Flatten (x) {body} y = Relu (h)", "float[N, 3, 8, 8] x", "float[N, M] y", weights)
    stored, names = surgery.store_computed_weights(model)
    assert stored is model
    assert names == ()


@pytest.mark.parametrize(
    "method", [Magnitude(keep=0.5), LcQuant(bits=2, steps=2)], ids=["magnitude", "lc-quant"]
)
def test_they_are_compressed_and_the_report_says_so(method, tmp_path):
    proto = proto_of(STANDARDISED, *SIGNATURE, WEIGHTS)
    onnx.save(proto, tmp_path / "net.onnx")
    recipe = Recipe((method,), {"random": True}, 0)
    request = pipeline.Request(
        source=tmp_path / "net.onnx", recipe=recipe, output=tmp_path / "out.onnx", benchmark=False
    )
    run = pipeline.compress(request)
    assert run.methods[0].summary.startswith("stored 1 weight that the file computes")
    assert "w" in {facts.name for facts in run.weights}
    written = onnx.load(tmp_path / "out.onnx")
    assert not {"Sqrt", "ReduceMean"} & {node.op_type for node in written.graph.node}
    inspected = pipeline.inspect(tmp_path / "net.onnx")
    assert {facts.name for facts in inspected.weights} == {"w", "b"}
    assert inspected.channels is not None
    assert any(group.size == 16 for group in inspected.channels.groups)


def test_lossless_tells_of_them_itself(tmp_path):
    onnx.save(proto_of(STANDARDISED, *SIGNATURE, WEIGHTS), tmp_path / "net.onnx")
    recipe = Recipe((Lossless(),), {}, 0)
    run = pipeline.compress(
        pipeline.Request(source=tmp_path / "net.onnx", recipe=recipe, output=None, benchmark=False)
    )
    assert [m.name for m in run.methods] == ["lossless"]
    assert any(change.rule == "constants" for change in run.simplifications[0].changes)
