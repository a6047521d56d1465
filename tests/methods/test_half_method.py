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
