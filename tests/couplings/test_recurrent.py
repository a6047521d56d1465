"""Recurrent layers: what is free, and that cutting it is silencing it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cutting import check_case, ints

CASES = {
    "lstm": (
        (
            "h, l, c = LSTM<hidden_size=8>(x, w, r, b, , i, j, p) s = Squeeze(h, a) y = MatMul(s, v)",
            {
                "w": (1, 32, 6),
                "r": (1, 32, 8),
                "b": (1, 64),
                "i": (1, 2, 8),
                "j": (1, 2, 8),
                "p": (1, 24),
                "a": ints(1),
                "v": (8, 5),
            },
            {"inputs": "float[4,2,6] x"},
        ),
        8,
    ),
    "lstm both ways": (
        (
            'h, l = LSTM<hidden_size=8, direction="bidirectional">(x, w, r, b, n) '
            "t = Transpose<perm=[0,2,1,3]>(h) f = Reshape(t, s) y = MatMul(f, v)",
            {
                "w": (2, 32, 6),
                "r": (2, 32, 8),
                "b": (2, 64),
                "n": np.array([4, 3], np.int32),
                "s": ints(0, 0, -1),
                "v": (16, 5),
            },
            {"inputs": "float[4,2,6] x"},
        ),
        8,
    ),
    "two lstms": (
        (
            "h = LSTM<hidden_size=8>(x, w, r) s = Squeeze(h, a) g = LSTM<hidden_size=4>(s, u, q) "
            "t = Squeeze(g, a) y = MatMul(t, v)",
            {"w": (1, 32, 6), "r": (1, 32, 8), "u": (1, 16, 8), "q": (1, 16, 4), "a": ints(1), "v": (4, 5)},
            {"inputs": "float[4,2,6] x"},
        ),
        12,
    ),
    "gru": (
        (
            "h, l = GRU<hidden_size=8, linear_before_reset=1>(x, w, r, b) s = Squeeze(l, a) y = Gemm(s, v)",
            {"w": (1, 24, 6), "r": (1, 24, 8), "b": (1, 48), "a": ints(0), "v": (8, 5)},
            {"inputs": "float[4,2,6] x"},
        ),
        8,
    ),
    "gru from zeros": (
        (
            "z = ConstantOfShape(k) h, l = GRU<hidden_size=8>(x, w, r, , , z) s = Squeeze(l, a) "
            "y = Gemm(s, v)",
            {"w": (1, 24, 6), "r": (1, 24, 8), "k": ints(1, 2, 8), "a": ints(0), "v": (8, 5)},
            {"inputs": "float[4,2,6] x"},
        ),
        8,
    ),
    "rnn": (
        (
            "h = RNN<hidden_size=8>(x, w, r, b) s = Squeeze(h, a) y = MatMul(s, v)",
            {"w": (1, 8, 6), "r": (1, 8, 8), "b": (1, 16), "a": ints(1), "v": (8, 5)},
            {"inputs": "float[4,2,6] x"},
        ),
        8,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_cut_is_silencing(case):
    check_case(*case)
