"""What may not be cut is kept, and the reason names the operator."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cutting import analysed, check_cut, image, ints, reasons, sequence

CASES = {
    "softmax": (sequence("z = Softmax(h)"), "Softmax"),
    "softmax of old": (sequence("z = Softmax<axis=1>(h)", opset=11), "Softmax"),
    "maximum": (sequence("r = ReduceMax(h, a) z = Sub(h, r)", {"a": ints(-1)}), "ReduceMax"),
    "product": (sequence("r = ReduceProd(h, a) z = Sub(h, r)", {"a": ints(-1)}), "ReduceProd"),
    "running sum": (sequence("z = CumSum(h, a)", {"a": ints(-1)}), "CumSum"),
    "top k": (sequence("z, i = TopK(h, k)", {"k": ints(3)}, after=3), "TopK"),
    "arg max": (
        sequence("i = ArgMax<axis=-1>(h) f = Cast<to=1>(i) z = Add(h, f)"),
        "ArgMax",
    ),
    "neighbours": (image("z = LRN<size=3>(h)"), "LRN"),
    "upper triangle": (sequence("z = Trilu(h)"), "triangle"),
    "values that are no channels": (
        ("h = MatMul(x, w) z = Add(h, r) y = MatMul(z, v)", {"w": (6, 8), "v": (8, 5)}, {
            "inputs": "float[2,5,6] x, float[2,5,8] r"}),
        "meets values that are no channels",
    ),
    "stride that does not divide": (
        image("z = Slice(h, s, e, a, d)", {"s": ints(0), "e": ints(8), "a": ints(1), "d": ints(3)},
              after=3),
        "stride of 3",
    ),
    "edge padding": (image('z = Pad<mode="edge">(h, p)', {"p": ints(0, 1, 0, 0, 0, 0, 0, 0)}, after=9),
                     "edge"),
    "resized channels": (image("z = Resize(h, , s)", {"s": np.array([1, 2, 1, 1], np.float32)}, after=16),
                         "Resize"),
    "positions": (
        image("p, i = MaxPool<kernel_shape=[2,2]>(h) f = Cast<to=1>(i) z = Mul(p, f)"),
        "positions that MaxPool tells",
    ),
    "integers": (
        image(
            "q = QuantizeLinear(h, s, o) c = QLinearConv(q, s, o, k, s, o, s, o) "
            "z = DequantizeLinear(c, s, o)",
            {"s": np.float32(0.1), "o": np.uint8(128), "k": np.full((7, 8, 1, 1), 130, np.uint8)}, after=7),
        "summed over as integers",
    ),
    "bernoulli": (sequence("p = Sigmoid(h) z = Bernoulli(p)"), "Bernoulli"),
    "counted": (sequence("n = NonZero(h) f = Cast<to=1>(n) s = ReduceSum(f) z = Mul(h, s)"), "NonZero"),
}  # fmt: skip


@pytest.mark.parametrize(("net", "why"), CASES.values(), ids=CASES.keys())
def test_reason_is_told(net, why):
    nodes, weights, options = net
    channels = analysed(nodes, weights, **options)
    assert why in reasons(channels)
    made = [g for g in channels.groups if any(m.tensor == "w" and not m.consumes for m in g.members)]
    assert made
    assert not any(g.free for g in made)


def test_only_what_is_picked_alone_is_kept():
    between = "i = Gather<axis=1>(h, k) u = Unsqueeze(i, a) z = Mul(h, u)"
    nodes, weights, options = image(between, {"k": np.int64(3), "a": ints(1)})
    channels = analysed(nodes, weights, **options)
    assert "picked by itself" in reasons(channels)
    assert sum(g.size for g in channels.free) == 7
    check_cut(channels)


def test_words_of_an_embedding_are_kept():
    weights = {"t": (9, 8), "w": (8, 7), "v": (7, 5)}
    nodes = "e = Gather(t, x) m = MatMul(e, w) y = MatMul(m, v)"
    channels = analysed(nodes, weights, inputs="int64[2,5] x")
    words = [g for g in channels.groups if any(m.tensor == "t" and m.axis == 0 for m in g.members)]
    assert not any(g.free for g in words)
    assert sum(g.size for g in channels.free) == 15


def test_bodies_are_kept():
    nodes = """
        h = MatMul(x, w)
        s = ReduceSum<keepdims=0>(x)
        c = Greater(s, n)
        i = If (c) <
            then_branch = t () => (float[] p) { p = Relu(h) },
            else_branch = e () => (float[] q) { q = Neg(h) }
        >
        z = Add(i, h)
        y = MatMul(z, v)
    """
    weights = {"w": (6, 8), "v": (8, 5), "n": np.float32(0)}
    channels = analysed(nodes, weights, inputs="float[2,5,6] x")
    assert not channels.free
    assert "whose body is not cut" in reasons(channels)
