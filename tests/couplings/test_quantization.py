"""Quantised layers: what is free, and that cutting it is silencing it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cutting import check_case, image, sequence

CASES = {
    "quantised and back": (
        image(
            "q = QuantizeLinear(h, s, o) z = DequantizeLinear(q, s, o)",
            {"s": np.float32(0.1), "o": np.uint8(9)},
        ),
        8,
    ),
    "quantised by channel": (
        image(
            "q = QuantizeLinear<axis=1>(h, s, o) z = DequantizeLinear<axis=1>(q, s, o)",
            {"s": np.linspace(0.05, 0.1, 8, dtype=np.float32), "o": np.arange(8, dtype=np.uint8)},
        ),
        8,
    ),
    "quantised by block": (
        sequence(
            "k = DequantizeLinear<axis=0, block_size=2>(q, s) z = MatMul(h, k)",
            {"q": (np.arange(56) % 11).astype(np.int8).reshape(8, 7), "s": np.full((4, 7), 0.1, np.float32)},
            after=7,
        ),
        11,
    ),
    "dynamic product": (
        sequence(
            "q, s, o = DynamicQuantizeLinear(h) i = MatMulInteger(q, k, o, n) f = Cast<to=1>(i) "
            "z = Mul(f, s)",
            {"k": np.arange(56, dtype=np.int8).reshape(8, 7) % 11, "n": np.int8(3)},
            after=7,
        ),
        15,
    ),
    "dynamic convolution": (
        image(
            "q, s, o = DynamicQuantizeLinear(h) i = ConvInteger<pads=[1,1,1,1]>(q, k, o) f = Cast<to=1>(i) "
            "z = Mul(f, s)",
            {"k": (np.arange(504) % 251).astype(np.uint8).reshape(7, 8, 3, 3)},
            after=7,
        ),
        15,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_cut_is_silencing(case):
    check_case(*case)
