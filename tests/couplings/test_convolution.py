"""Convolutions of every kind: what is free, and that cutting it is silencing it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cutting import check_case, image, ints, sequence

CASES = {
    "depthwise": (image("z = Conv<group=8, pads=[1,1,1,1]>(h, k, c)", {"k": (8, 1, 3, 3), "c": (8,)}), 8),
    "depthwise with a multiplier": (image("z = Conv<group=8>(h, k)", {"k": (16, 1, 3, 3)}, after=16), 8),
    "one output a group": (image("z = Conv<group=4>(h, k)", {"k": (4, 2, 3, 3)}, after=4), 4),
    "grouped": (image("z = Conv<group=2>(h, k, c)", {"k": (12, 4, 1, 1), "c": (12,)}, after=12), 10),
    "transposed": (image("z = ConvTranspose(h, k, c)", {"k": (8, 6, 2, 2), "c": (6,)}, after=6), 14),
    "transposed depthwise": (image("z = ConvTranspose<group=8>(h, k, c)", {"k": (8, 1, 2, 2), "c": (8,)}), 8),
    "transposed with a multiplier": (
        image("z = ConvTranspose<group=8>(h, k, c)", {"k": (8, 2, 2, 2), "c": (16,)}, after=16),
        8,
    ),
    "transposed grouped": (
        image("z = ConvTranspose<group=2>(h, k, c)", {"k": (8, 3, 2, 2), "c": (6,)}, after=6),
        7,
    ),
    "transposed one a group": (image("z = ConvTranspose<group=4>(h, k)", {"k": (8, 1, 2, 2)}, after=4), 4),
    "fused": (
        image('z = com.microsoft.FusedConv<activation="Relu">(h, k, c, h)', {"k": (8, 8, 1, 1), "c": (8,)}),
        8,
    ),
    "col2im": (
        (
            "r = Reshape(x, s) m = MatMul(w, r) i = Col2Im(m, size, block) y = Conv(i, v)",
            {"w": (16, 3), "s": ints(2, 3, 36), "size": ints(7, 7), "block": ints(2, 2), "v": (5, 4, 1, 1)},
            {},
        ),
        4,
    ),
    "pointwise over channels": (sequence("c = Conv(h, k) z = Add(c, h)", {"k": (5, 5, 1)}), 8),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_cut_is_silencing(case):
    check_case(*case)
