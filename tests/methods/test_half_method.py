"""--method half: what is rounded, what is refused and why, and the file that comes of it."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from text_graphs import model_of, proto_of

import onnxcompress
from onnxcompress.core.errors import NothingChangedError, UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.encodings.dense import Dense
from onnxcompress.methods.half import HalfWeights

BODY = "a = Gemm (x, w, b) r = Relu (a) y = Gemm (r, u, c)"
ENDS = ("float[N, 40] x", "float[N, 10] y")
WEIGHTS = {"w": (40, 60), "b": (60,), "u": (60, 10), "c": (10,)}


@pytest.mark.parametrize(("precision", "error"), [("fp16", 1e-3), ("bf16", 1e-2)])
def test_half_of_the_file(precision, error):
    result = onnxcompress.compress(proto_of(BODY, *ENDS, WEIGHTS), method="half", precision=precision)
    before, after = result.run.models
    assert after.size_bytes < 0.58 * before.size_bytes
    assert {w.encoding for w in result.run.weights} == {"half"}
    (output,) = result.run.comparisons[0].outputs
    assert 0 < output.relative_l2 < error
    with pytest.raises(NothingChangedError, match="half already"):
        onnxcompress.compress(result.model, method="half")


def test_what_is_refused():
    weights = {**WEIGHTS, "w": np.full((40, 60), 7e4, np.float32)}
    model = model_of(BODY, *ENDS, weights)
    plan = HalfWeights(exclude=("u",)).plan(model, None, Resources())
    assert not plan.weights
    told = {r.where: r.why for r in plan.refusals}
    assert "holds 70000, the largest number of fp16 is 65504; --precision bf16" in told["w"]
    assert told["u"] == "excluded by --exclude"
    assert HalfWeights("bf16").plan(model, None, Resources()).weights.keys() == {"w", "u"}


def test_numbers_that_vanish_are_told():
    weights = {**WEIGHTS, "w": np.full((40, 60), 1e-9, np.float32)}
    model = model_of(BODY, *ENDS, weights)
    assert "vanish" in HalfWeights().plan(model, None, Resources()).warnings[0]
    assert not HalfWeights("bf16").plan(model, None, Resources()).warnings


def test_options():
    with pytest.raises(UsageError, match="fp16 or bf16"):
        HalfWeights("fp8")
    with pytest.raises(UsageError, match="matches"):
        HalfWeights(include=("nothing*",)).plan(model_of(BODY, *ENDS, WEIGHTS), None, Resources())


def test_biases_are_rounded_where_that_pays():
    body = "s = Add (x, d) a = Gemm (s, w, b) r = Relu (a) y = Gemm (r, u, c)"
    weights = {**WEIGHTS, "d": (40,)}
    before = proto_of(body, *ENDS, weights)
    plain = onnxcompress.compress(before, method="half").run.models[1].size_bytes
    result = onnxcompress.compress(before, method="half", biases=True)
    assert {w.name: w.encoding for w in result.run.weights} == {
        "w": "half", "u": "half", "b": "half", "d": "half"
    }  # fmt: skip
    saved = 2 * (40 + 60)
    assert saved - 2 * 60 < plain - result.run.models[1].size_bytes < saved
    (output,) = result.run.comparisons[0].outputs
    assert 0 < output.relative_l2 < 1e-3
    assert {t.name for t in result.model.graph.initializer if t.data_type == 1} == {"c"}


def test_biases_of_a_quantised_network_are_rounded():
    quantised = onnxcompress.compress(proto_of(BODY, *ENDS, WEIGHTS), method="lc-quant", bits=2).model
    result = onnxcompress.compress(quantised, method="half", biases=True)
    assert result.run.models[1].size_bytes < result.run.models[0].size_bytes - 50
    with pytest.raises(NothingChangedError):
        onnxcompress.compress(quantised, method="half")


def test_biases_that_a_method_before_trained_along_are_rounded():
    model = model_of(BODY, *ENDS, WEIGHTS)
    trained = np.linspace(-1, 1, 60, dtype=np.float32)
    model = model.with_encodings({"b": Dense(trained)}, "trained along")
    found = HalfWeights(biases=True).plan(model, None, Resources()).weights
    np.testing.assert_array_equal(found["b"].decode(), trained.astype(np.float16).astype(np.float32))
    again = HalfWeights(biases=True).plan(model.with_encodings(found, "half"), None, Resources())
    assert not again.weights


def test_biases_that_stay():
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(60).astype(np.float32)
    for values, why in (
        (np.where(np.arange(60) == 7, 1e-9, numbers), "too small for fp16"),
        (numbers * 1e6, "the largest number of fp16"),
        (np.full(60, np.inf), "infinite"),
    ):
        model = model_of(BODY, *ENDS, {**WEIGHTS, "b": values.astype(np.float32)})
        plan = HalfWeights(biases=True).plan(model, None, Resources())
        assert plan.weights.keys() == {"w", "u"}
        (refusal,) = plan.refusals
        assert (refusal.where, why in refusal.why) == ("b", True)
        assert not HalfWeights().plan(model, None, Resources()).refusals
    # The scales of a grid are what whole numbers are multiplied by.
    body = "q = Cast <to = 3> (x) e = DequantizeLinear <axis = 1> (q, s) y = Gemm (e, w, b)"
    grid = {"s": (np.abs(numbers[:40]) + 1).astype(np.float32), "w": (40, 60), "b": (60,)}
    model = model_of(body, "float[N, 40] x", "float[N, 60] y", grid)
    assert HalfWeights(biases=True).plan(model, None, Resources()).weights.keys() == {"w", "b"}
