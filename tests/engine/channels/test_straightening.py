"""Views spelt out by index: the graph computes the same, and channels are followed through it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from text_graphs import model_of

from onnxcompress import exporter, surgery
from onnxcompress.engine import runtime
from onnxcompress.engine.channels import analyse


def strided(order, more="", width=6):
    """A pooled map whose elements are looked up in one long axis, example by example: torch's as_strided."""
    return model_of(
        "h = Conv (x, a) r = Relu (h) p = GlobalAveragePool (r) f = Reshape (p, flat) s = Shape (p) "
        "n = Gather (s, zero) c = Range (zero, n, one) d = Mul (c, width) e = Unsqueeze (d, behind) "
        f"i = Add (e, order) g = Gather (f, i) {more} y = Conv (g, b)",
        "float[N, 3, 4, 4] x", "float[N, 5, 1, 1] y",
        {"a": (6, 3, 1, 1), "b": (5, 6, 1, 1), "flat": np.array([-1]), "zero": np.array(0),
         "one": np.array(1), "width": np.array(width), "behind": np.array([1, 2, 3]),
         "order": np.reshape(order, (1, 6, 1, 1))},
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 5])
def test_channels_are_cut_through_a_view(count):
    model = strided(np.arange(6))
    channels = analyse(model, {"x": (count, 3, 4, 4)})
    (group,) = channels.free
    assert group.size == 6
    assert {n.op_type for n in channels.model.ir.graph} == {
        "Conv", "Relu", "GlobalAveragePool", "Reshape", "Constant"
    }  # fmt: skip
    x = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)

    def answer(one):
        return runtime.open_session(exporter.dense_bytes(one)).run({"x": x})["y"]

    np.testing.assert_array_equal(answer(channels.model), answer(model))
    onnx.checker.check_model(onnx.load_from_string(exporter.dense_bytes(channels.model)), full_check=True)
    keep = {group.name: np.array([True, False, True, True, False, True])}
    result = surgery.cut(channels, keep)
    surgery.prove(channels, keep, result)
    weights = {n: model.array(n) for n in "ab"}
    pooled = np.maximum(np.einsum("oc,nchw->nohw", weights["a"][:, :, 0, 0], x), 0).mean((2, 3))
    expected = pooled[:, keep[group.name]] @ weights["b"][:, keep[group.name], 0, 0].T
    np.testing.assert_allclose(answer(result.model)[:, :, 0, 0], expected, rtol=1e-4, atol=1e-5)


def made_by(channels):
    """Return the tensors that make channels which can be cut."""
    return {m.tensor for g in channels.free for m in g.members if not m.consumes}


def test_another_order_is_no_view():
    channels = analyse(strided([0, 1, 2, 3, 5, 4]), {"x": (2, 3, 4, 4)})
    assert "a" not in made_by(channels)
    assert "Gather" in {n.op_type for n in channels.model.ir.graph if n.outputs[0].name == "g"}
    assert "a" in made_by(analyse(strided(np.arange(6)), {"x": (2, 3, 4, 4)}))


def test_one_example_does_not_show_how_several_lie():
    """Rows that overlap count 0, 1, 2 … for one example only, which is what is looked at first."""
    assert "a" not in made_by(analyse(strided(np.arange(6), width=5), {"x": (1, 3, 4, 4)}))


def test_what_others_read_stays():
    model = strided(np.arange(6), "k = Shape (i) z = Cast <to = 1> (k) m = ReduceSum (z) o = Mul (g, m)")
    channels = analyse(model, {"x": (2, 3, 4, 4)})
    assert "Range" in {n.op_type for n in channels.model.ir.graph}
