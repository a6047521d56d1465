"""Normalisation, reduction, pooling, resizing and sizes: what is free, and that a cut is silencing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cutting import check_case, image, ints, sequence

CASES = {
    "batch norm": (
        image(
            "z = BatchNormalization(h, s, t, m, q)",
            {k: np.linspace(0.5, 2, 8, dtype=np.float32) for k in "stmq"},
        ),
        8,
    ),
    "instance norm": (image("z = InstanceNormalization(h, s, t)", {"s": (8,), "t": (8,)}), 8),
    "group norm by groups": (
        image("z = GroupNormalization<num_groups=4>(h, s, t)", {"s": (8,), "t": (8,)}),
        4,
    ),
    "group norm of 18": (
        image("z = GroupNormalization<num_groups=4>(h, s, t)", {"s": (4,), "t": (4,)}, opset=18),
        4,
    ),
    "group norm a channel": (
        image("z = GroupNormalization<num_groups=8>(h, s, t)", {"s": (8,), "t": (8,)}),
        8,
    ),
    "group norm as instance norm": (
        image(
            "g = Reshape(h, a) n = InstanceNormalization(g, s, t) z = Reshape(n, c)",
            {"s": (4,), "t": (4,), "a": ints(0, 4, -1), "c": ints(2, 8, 6, 6)},
        ),
        4,
    ),
    "lp norm": (sequence("z = LpNormalization(h)"), 8),
    "lp norm written out": (sequence("n = ReduceL2(h, a) z = Div(h, n)", {"a": ints(-1)}), 8),
    "reduce positions": (image("z = ReduceMean(h, a)", {"a": ints(2, 3)}), 8),
    "reduce positions of old": (
        image(
            "r = ReduceMean<axes=[2,3], keepdims=0>(h) u = Unsqueeze<axes=[2,3]>(r) z = Sigmoid(u)", opset=11
        ),
        8,
    ),
    "reduce channels": (
        sequence("s = ReduceSumSquare(h, a) z = Concat<axis=-1>(h, s)", {"a": ints(-1)}, after=9),
        8,
    ),
    "max pool": (image("z = MaxPool<kernel_shape=[2,2]>(h)"), 8),
    "max unpool": (
        image(
            "p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h) r = Relu(p) "
            "z = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(r, i, o)",
            {"o": ints(2, 8, 6, 6)},
        ),
        8,
    ),
    "excite": (
        image(
            "g = GlobalAveragePool(h) a = Conv(g, k) r = Relu(a) c = Conv(r, l) s = Sigmoid(c) z = Mul(h, s)",
            {"k": (4, 8, 1, 1), "l": (8, 4, 1, 1)},
        ),
        12,
    ),
    "resize by scales": (image("z = Resize(h, , s)", {"s": np.array([1, 1, 2, 2], np.float32)}), 8),
    "resize by sizes": (image("z = Resize(h, , , s)", {"s": ints(2, 8, 9, 9)}), 8),
    "resize by sizes of axes": (image("z = Resize<axes=[1,2]>(h, , , s)", {"s": ints(8, 9)}), 8),
    "upsample": (image("z = Upsample(h, s)", {"s": np.array([1, 1, 2, 2], np.float32)}, opset=9), 8),
    "grid sample": (image("z = GridSample(h, g)", {"g": (2, 4, 4, 2)}), 8),
    "roi align": (
        image(
            "z = RoiAlign<output_height=2, output_width=2>(h, r, i)",
            {"r": np.array([[0, 0, 3, 3]], np.float32), "i": ints(1)},
        ),
        8,
    ),
    "softmax over positions": (image("z = Softmax<axis=2>(h)"), 8),
    "top k over positions": (image("z, i = TopK<axis=2>(h, k)", {"k": ints(2)}), 8),
    "cumulative over positions": (image("z = CumSum(h, a)", {"a": ints(2)}), 8),
    "arg max over positions": (image("i = ArgMax<axis=2>(h) f = Cast<to=1>(i) z = Add(f, h)"), 8),
    "constant of shape": (image("c = ConstantOfShape(s) z = Sub(h, c)", {"s": ints(8, 1, 1)}), 8),
    "shape arithmetic": (
        image(
            "s = Shape(h) r = Reshape(h, t) n = Slice(s, i, j) c = Cast<to=1>(n) "
            "d = Div(r, c) z = Reshape(d, s)",
            {"t": ints(0, 8, -1), "i": ints(1), "j": ints(2)},
        ),
        8,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_cut_is_silencing(case):
    check_case(*case)
