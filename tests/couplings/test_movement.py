"""Operators that rearrange elements between layers: what is free, and that cutting it is silencing it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cutting import check_case, image, ints

# a product of each of 4 groups: 3 channels a group, one group behind the other in q
MERGED = "r = Reshape(h, s) m = MatMul(g, r) q = Reshape(m, t)"
PARTS = {"s": ints(0, 4, 2, 36), "t": ints(0, 12, 6, 6), "g": (4, 3, 2)}

CASES = {
    "flatten": (
        (
            "h = Conv(x, w, b) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h) "
            "f = Flatten(p) y = Gemm(f, v)",
            {"w": (8, 3, 3, 3), "b": (8,), "v": (32, 5)},
            {},
        ),
        8,
    ),
    "reshape": (
        image("r = Reshape(h, s) z = Reshape(r, t)", {"s": ints(2, 8, 36), "t": ints(2, 8, 6, 6)}),
        8,
    ),
    "transpose": (
        image(
            "t = Transpose<perm=[0,2,3,1]>(h) m = MatMul(t, k) z = Transpose<perm=[0,3,1,2]>(m)",
            {"k": (8, 7)},
            after=7,
        ),
        15,
    ),
    "channel shuffle": (
        image(
            "r = Reshape(h, s) t = Transpose<perm=[0,2,1,3,4]>(r) z = Reshape(t, u)",
            {"s": ints(2, 2, 4, 6, 6), "u": ints(2, 8, 6, 6)},
        ),
        4,
    ),
    "pixel shuffle": (image("z = DepthToSpace<blocksize=2>(h)", width=12, after=3), 3),
    "pixel shuffle by rows": (image('z = DepthToSpace<blocksize=2, mode="CRD">(h)', width=12, after=3), 3),
    "space to depth": (image("z = SpaceToDepth<blocksize=2>(h)", after=32), 8),
    "expand": (image("g = GlobalAveragePool(h) z = Expand(g, s)", {"s": ints(2, 8, 6, 6)}), 8),
    "expand of one": (image("e = Expand(c, s) z = Mul(h, e)", {"c": (1, 1, 1, 1), "s": ints(2, 8, 1, 1)}), 8),
    "tile": (image("z = Tile(h, r)", {"r": ints(1, 2, 1, 1)}, after=16), 8),
    "tile of one": (image("e = Tile(c, r) z = Mul(h, e)", {"c": (1, 1, 1, 1), "r": ints(1, 8, 1, 1)}), 8),
    "pad positions": (image("z = Pad(h, p)", {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}), 8),
    "pad channels": (
        image(
            "p = Pad(h, q) c = Conv(h, k) z = Add(p, c)",
            {"q": ints(0, 2, 0, 0, 0, 3, 0, 0), "k": (13, 8, 1, 1)},
            after=13,
        ),
        13,
    ),
    "pad by axes": (
        image(
            "p = Pad(h, q, n, a) c = Conv(h, k) z = Add(p, c)",
            {"q": ints(1, 1), "n": np.float32(0.5), "a": ints(-3), "k": (10, 8, 1, 1)},
            after=10,
        ),
        10,
    ),
    "crop channels": (image("z = Pad(h, q)", {"q": ints(0, -2, 0, 0, 0, -1, 0, 0)}, after=5), 5),
    "pad of old": (
        image(
            "p = Pad<pads=[0,0,0,0,0,4,0,0]>(h) c = Conv(h, k) z = Add(p, c)",
            {"k": (12, 8, 1, 1)},
            after=12,
            opset=10,
        ),
        12,
    ),
    "two axes merged, cut along the second": (
        image(f"{MERGED} z = Conv<group=4>(q, u)", {**PARTS, "u": (12, 3, 1, 1)}, after=12),
        6,
    ),
    "two axes merged, read whole as well": (
        image(
            f"{MERGED} a = Conv<group=4>(q, u) e = CumSum(q, n) f = Conv(e, k) z = Add(a, f)",
            {**PARTS, "u": (12, 3, 1, 1), "n": np.array(1), "k": (12, 12, 1, 1)},
            after=12,
        ),
        3,
    ),
    "two axes merged, decided by a later reader": (
        image(
            f"{MERGED} p = Relu(q) a = Conv<group=4>(p, u) e = Conv(q, k) z = Add(a, e)",
            {**PARTS, "u": (12, 3, 1, 1), "k": (12, 12, 1, 1)},
            after=12,
        ),
        6,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_cut_is_silencing(case):
    check_case(*case)
