"""Element-wise operators between layers: what is free, and that cutting it is silencing it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cutting import check_case, image, ints, sequence

CASES = {
    "unary": (image("z = Relu(h)"), 8),
    "clip": (image("z = Clip(h, low, high)", {"low": np.float32(-1), "high": np.float32(1)}), 8),
    "add constant": (image("z = Add(h, c)", {"c": (1, 8, 1, 1)}), 8),
    "mul scalar": (image("z = Mul(h, c)", {"c": np.float32(3)}), 8),
    "prelu": (image("z = PRelu(h, s)", {"s": (8, 1, 1)}), 8),
    "prelu of one": (image("z = PRelu(h, s)", {"s": (1,)}), 8),
    "where": (image("c = Greater(h, t) z = Where(c, h, t)", {"t": (8, 1, 1)}), 8),
    "residual": (image("r = Relu(h) c = Conv(r, k) z = Add(c, h)", {"k": (8, 8, 1, 1)}), 8),
    "broadcast of one channel": (image("c = Conv(h, k) z = Mul(h, c)", {"k": (1, 8, 1, 1)}), 8),
    "sum of many": (image("z = Sum(h, h, c)", {"c": (8, 1, 1)}), 8),
    "bias gelu": (sequence("z = com.microsoft.BiasGelu(h, c)", {"c": (8,)}), 8),
    "swiglu of slices": (
        sequence("p, q = Split<axis=-1>(h, s) g = Sigmoid(p) z = Mul(g, q)", {"s": ints(4, 4)}, after=4),
        4,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_cut_is_silencing(case):
    check_case(*case)
