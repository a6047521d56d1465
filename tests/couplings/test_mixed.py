"""Normalisations that mix channels: marked as such, and the cut net is that of the sliced weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cutting import analysed, drawn_keep, feeds_of, image, ints, model_of, run, sequence

from onnxcompress import surgery
from onnxcompress.core.channels import kept_positions

TWO = {"s": (8,), "t": (8,)}
CASES = {
    "layer norm": (sequence("z = LayerNormalization(h, s, t)", TWO), 8),
    "layer norm with statistics": (sequence("n, m1, d = LayerNormalization(h, s, t) z = Mul(n, d)", TWO), 8),
    "rms norm": (sequence("z = RMSNormalization(h, s)", {"s": (8,)}, opset=23), 8),
    "skip layer norm": (
        sequence("z = com.microsoft.SkipLayerNormalization(h, h, s, t, c)", {**TWO, "c": (8,)}),
        8,
    ),
    "the sum a skip layer norm gives on": (
        sequence(
            "n, , , k = com.microsoft.SkipLayerNormalization(h, h, s, t) z = Mul(n, k)",
            TWO,
        ),
        8,
    ),
    "layer norm written out": (
        sequence(
            "a = ReduceMean(h, n) c = Sub(h, a) d = Pow(c, p) e = ReduceMean(d, n) f = Sqrt(e) g = Div(c, f) "
            "i = Mul(g, s) z = Add(i, t)",
            {**TWO, "n": ints(-1), "p": np.float32(2)},
        ),
        8,
    ),
    "group norm of few groups": (image("z = GroupNormalization<num_groups=2>(h, s, t)", TWO), 4),
    "group norm of one group": (image("z = GroupNormalization<num_groups=1>(h, s, t)", TWO), 8),
    "mean and variance": (image("z = MeanVarianceNormalization<axes=[1,2,3]>(h)"), 8),
    "mean of channels": (image("c = ReduceMean(h, a) z = Mul(h, c)", {"a": ints(1)}), 8),
    "embedding": (
        (
            "z, l, k = com.microsoft.EmbedLayerNormalization(x, , t, p, , s, c) y = MatMul(z, v)",
            {"t": (9, 8), "p": (6, 8), "s": (8,), "c": (8,), "v": (8, 5)},
            {"inputs": "int32[2,5] x"},
        ),
        8,
    ),
}  # fmt: skip


def sliced(channels, keep, weights):
    """Return the weights a person would slice by hand, without any repair of the graph."""
    found = dict(weights)
    for name, mask in keep.items():
        for member in channels.group(name).members:
            array = channels.constant(member.tensor)
            array = found[member.tensor] if isinstance(found[member.tensor], np.ndarray) else array
            found[member.tensor] = array.compress(kept_positions(member, mask), member.axis)
    return found


@pytest.mark.parametrize(("net", "free"), CASES.values(), ids=CASES.keys())
def test_cut_is_the_net_of_sliced_weights(net, free):
    nodes, weights, options = net
    channels = analysed(nodes, weights, **options)
    assert sum(g.size for g in channels.free) == free
    assert all(g.mixed for g in channels.free)
    feeds = feeds_of(channels.model)
    arrays = {name: channels.constant(name) for name in weights}
    for seed in range(4):
        keep = drawn_keep(channels, np.random.default_rng(seed))
        found = run(surgery.cut(channels, keep).model, feeds)
        expected = run(model_of(nodes, sliced(channels, keep, arrays), **options), feeds)
        np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-4, atol=1e-5)
