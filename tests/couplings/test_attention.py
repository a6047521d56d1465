"""Attention, written out and fused: what is free, and that cutting it is silencing it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cutting import check_case, ints, sequence

CASES = {
    "attention written out": (
        (
            "q = MatMul(x, wq) k = MatMul(x, wk) u = MatMul(x, wu) "
            "a = Reshape(q, s) b = Reshape(k, s) c = Reshape(u, s) "
            "d = Transpose<perm=[0,2,1,3]>(a) e = Transpose<perm=[0,2,3,1]>(b) "
            "f = Transpose<perm=[0,2,1,3]>(c) g = MatMul(d, e) h = Softmax(g) i = MatMul(h, f) "
            "j = Transpose<perm=[0,2,1,3]>(i) l = Reshape(j, t) y = MatMul(l, v)",
            {
                "wq": (6, 12),
                "wk": (6, 12),
                "wu": (6, 12),
                "s": ints(2, 5, 4, 3),
                "t": ints(2, 5, 12),
                "v": (12, 5),
            },
            {"inputs": "float[2,5,6] x"},
        ),
        4,
    ),
    "attention": (
        (
            "q = MatMul(x, wq) k = MatMul(x, wk) u = MatMul(x, wu) "
            "a = Attention<q_num_heads=4, kv_num_heads=4, is_causal=1>(q, k, u) y = MatMul(a, v)",
            {"wq": (6, 12), "wk": (6, 12), "wu": (6, 8), "v": (8, 5)},
            {"inputs": "float[2,5,6] x", "opset": 23},
        ),
        4,
    ),
    "attention with shared keys": (
        (
            "q = MatMul(x, wq) k = MatMul(x, wk) u = MatMul(x, wu) "
            "a = Attention<q_num_heads=6, kv_num_heads=3>(q, k, u) y = MatMul(a, v)",
            {"wq": (6, 12), "wk": (6, 6), "wu": (6, 6), "v": (12, 5)},
            {"inputs": "float[2,5,6] x", "opset": 23},
        ),
        3,
    ),
    "attention of one head": (
        (
            "q = MatMul(x, wq) k = MatMul(x, wk) u = MatMul(x, wu) "
            "a = Attention<q_num_heads=1, kv_num_heads=1>(q, k, u) y = MatMul(a, v)",
            {"wq": (6, 12), "wk": (6, 12), "wu": (6, 8), "v": (8, 5)},
            {"inputs": "float[2,5,6] x", "opset": 23},
        ),
        20,
    ),
    "attention by heads": (
        (
            "q = MatMul(r, wq) k = MatMul(r, wk) u = MatMul(r, wu) "
            "a = Attention(q, k, u, m) y = MatMul(a, v)",
            {"wq": (4, 6, 3), "wk": (4, 6, 3), "wu": (4, 6, 2), "m": (4, 5, 5), "v": (4, 2, 5)},
            {"inputs": "float[2,1,5,6] r", "opset": 23},
        ),
        5,
    ),
    "multi-head attention": (
        (
            "q = MatMul(x, wq) k = MatMul(x, wk) u = MatMul(x, wu) "
            "a = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, u, b, , m) y = MatMul(a, v)",
            {"wq": (6, 12), "wk": (6, 12), "wu": (6, 12), "b": (36,), "m": (1, 4, 5, 5), "v": (12, 5)},
            {"inputs": "float[2,5,6] x"},
        ),
        4,
    ),
    "one head with a bias inside": (  # the value's channels; what the bias adds to the others stays
        (
            "q = MatMul(x, wq) k = MatMul(x, wk) u = MatMul(x, wu) "
            "a = com.microsoft.MultiHeadAttention<num_heads=1>(q, k, u, b) y = MatMul(a, v)",
            {"wq": (6, 4), "wk": (6, 4), "wu": (6, 4), "b": (12,), "v": (4, 5)},
            {"inputs": "float[2,5,6] x"},
        ),
        4,
    ),
    "one head without a bias": (
        (
            "q = MatMul(x, wq) k = MatMul(x, wk) u = MatMul(x, wu) "
            "a = com.microsoft.MultiHeadAttention<num_heads=1>(q, k, u) y = MatMul(a, v)",
            {"wq": (6, 4), "wk": (6, 4), "wu": (6, 3), "v": (3, 5)},
            {"inputs": "float[2,5,6] x"},
        ),
        7,
    ),
    "joint attention": (
        (
            "a = com.microsoft.Attention<num_heads=4>(x, w, b) y = MatMul(a, v)",
            {"w": (6, 36), "b": (36,), "v": (12, 5)},
            {"inputs": "float[2,5,6] x"},
        ),
        4,
    ),
    "joint attention of other sizes": (
        (
            "a = com.microsoft.Attention<num_heads=4, qkv_hidden_sizes=[12,12,8]>(x, w, b) y = MatMul(a, v)",
            {"w": (6, 32), "b": (32,), "v": (8, 5)},
            {"inputs": "float[2,5,6] x"},
        ),
        4,
    ),
    "rotary by heads": (
        sequence(
            "z = RotaryEmbedding<num_heads=4>(h, c, s, p)",
            {"c": (9, 2), "s": (9, 2), "p": np.tile(np.arange(5), (2, 1))},
            width=16,
            opset=23,
        ),
        4,
    ),
    "rotary of one head": (
        sequence(
            "z = RotaryEmbedding<num_heads=1>(h, c, s, p)",
            {"c": (9, 4), "s": (9, 4), "p": np.tile(np.arange(5), (2, 1))},
            opset=23,
        ),
        4,
    ),
    "rotary interleaved": (
        sequence(
            "r = Reshape(h, t) o = RotaryEmbedding<interleaved=1>(r, c, s, p) z = Squeeze(o, a)",
            {
                "t": ints(2, 1, 5, 8),
                "a": ints(1),
                "c": (9, 4),
                "s": (9, 4),
                "p": np.tile(np.arange(5), (2, 1)),
            },
            opset=23,
        ),
        4,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_cut_is_silencing(case):
    check_case(*case)
