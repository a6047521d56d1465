"""Top-1 agreement: told and gated on of class scores alone, in a compression and in a comparison."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from text_graphs import proto_of

import onnxcompress
from onnxcompress.core.errors import GateError
from onnxcompress.report import render

RNG = np.random.default_rng(3)
X = RNG.standard_normal((80, 12)).astype(np.float32)
SEVERAL = (RNG.random((80, 6)) < 0.5).astype(np.int64)
"""Labels of which several, or none, hold of an example."""
ONE = np.arange(80) % 6


def model(sigmoid):
    end = "s = MatMul (r, w1) y = Sigmoid (s)" if sigmoid else "y = MatMul (r, w1)"
    body = f"h = MatMul (x, w0) r = Relu (h) {end}"
    return proto_of(body, "float[N, 12] x", "float[N, 6] y", {"w0": (12, 32), "w1": (32, 6)})


def data(labels):
    return {"x": X} if labels is None else {"x": X, "y": labels}


@pytest.mark.parametrize(
    ("sigmoid", "labels", "options", "ranked"),
    [
        (True, SEVERAL, {}, False),
        (False, SEVERAL, {}, False),
        (False, RNG.standard_normal((80, 6)).astype(np.float32), {}, False),
        (True, None, {}, False),
        (False, None, {"loss": "l2"}, False),
        (False, None, {}, True),
        (False, ONE, {}, True),
        (True, ONE, {}, True),
    ],
)
def test_agreement_is_that_of_class_scores(tmp_path, sigmoid, labels, options, ranked):
    np.savez(tmp_path / "d.npz", **data(labels))
    given = {"data": tmp_path / "d.npz", "data_options": options, "benchmark": False}
    call = {"method": "half", "output": tmp_path / "out.onnx", "overwrite": True, **given}
    done = onnxcompress.compress(model(sigmoid), **call)
    told = [output.top1_agreement for c in done.run.comparisons for output in c.outputs]
    assert len(told) == 2
    assert all((share is not None) is ranked for share in told)
    if ranked:
        onnxcompress.compress(model(sigmoid), limits={"min_agreement": 0.0}, **call)
        return
    why = "min_agreement was not measured: no output could be compared as class scores or decisions"
    with pytest.raises(GateError, match=why):
        onnxcompress.compress(model(sigmoid), limits={"min_agreement": 0.0}, **call)


@pytest.mark.parametrize("sigmoid", [True, False])
def test_the_report_says_nothing_of_a_top_class_where_there_is_none(tmp_path, sigmoid):
    """No data, no labels: the graph alone tells."""
    onnx.save(model(sigmoid), tmp_path / "a.onnx")
    onnxcompress.compress(model(sigmoid), method="half", output=tmp_path / "b.onnx", benchmark=False)
    run = onnxcompress.compare(tmp_path / "a.onnx", tmp_path / "b.onnx", benchmark=False)
    (told,) = [o.top1_agreement for c in run.comparisons for o in c.outputs]
    assert (told is None) is sigmoid
    text = render(run, "markdown")
    assert ("top class is the same" in text) is not sigmoid
    assert ("Top-1 agreement" in text) is not sigmoid
