"""Matrix products of every kind: what is free, and that cutting it is silencing it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cutting import check_case, ints, sequence

CASES = {
    "gemm": (
        (
            "h = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b) y = Gemm(h, v, c)",
            {"w": (8, 6), "b": (8,), "v": (8, 5), "c": (1, 5)},
            {"inputs": "float[4,6] x"},
        ),
        8,
    ),
    "gemm with wide bias": (
        (
            "h = Gemm(x, w, b) r = Relu(h) y = Gemm(r, v, c)",
            {"w": (6, 8), "b": (4, 8), "v": (8, 5), "c": np.float32(1)},
            {"inputs": "float[4,6] x"},
        ),
        8,
    ),
    "gemm turned": (
        (
            "h = Gemm<transA=1>(w, x, b) y = Gemm<transA=1, transB=1>(h, v)",
            {"w": (6, 8), "b": (8, 1), "v": (5, 8)},
            {"inputs": "float[6,4] x"},
        ),
        8,
    ),
    "weight on the left": (
        (
            "h = MatMul(w, x) a = Add(h, b) y = MatMul(v, a)",
            {"w": (8, 6), "b": (8, 1), "v": (5, 8)},
            {"inputs": "float[2,6,4] x"},
        ),
        8,
    ),
    "vectors": (
        ("h = MatMul(x, w) y = MatMul(h, v)", {"w": (6, 8), "v": (8,)}, {"inputs": "float[2,6] x"}),
        8,
    ),
    "vector on the left": (
        (
            "h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)",
            {"w": (6, 8), "v": (8, 5)},
            {"inputs": "float[6] x"},
        ),
        8,
    ),
    "gram": (
        sequence(
            "k = MatMul(x, u) t = Transpose<perm=[0,2,1]>(k) s = MatMul(h, t) z = MatMul(s, q)",
            {"u": (6, 8), "q": (5, 7)},
            after=7,
        ),
        15,
    ),
    "weight moved": (sequence("t = Transpose(k) z = MatMul(h, t)", {"k": (7, 8)}, after=7), 15),
    "weight decoded": (
        sequence(
            "k = DequantizeLinear<axis=1>(q, s, o) z = MatMul(h, k)",
            {
                "q": np.arange(56, dtype=np.int8).reshape(8, 7),
                "s": np.linspace(0.01, 0.1, 7, dtype=np.float32),
                "o": np.zeros(7, np.int8),
            },
            after=7,
        ),
        15,
    ),
    "fused product": (
        sequence("z = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(h, k)", {"k": (7, 8)}, after=7),
        15,
    ),
    "einsum": (sequence('z = Einsum<equation="bij,jk->bik">(h, k)', {"k": (8, 7)}, after=7), 15),
    "einsum with ellipsis": (sequence('z = Einsum<equation="...j,kj">(h, k)', {"k": (7, 8)}, after=7), 15),
    "einsum of three": (
        sequence('z = Einsum<equation="bij,j,jk->bik">(h, c, k)', {"c": (8,), "k": (8, 7)}, after=7),
        15,
    ),
    "einsum by heads": (
        sequence(
            'r = Reshape(h, s) e = Einsum<equation="bihd,hde->bie">(r, k) z = Relu(e)',
            {"s": ints(2, 5, 2, 4), "k": (2, 4, 7)},
            after=7,
        ),
        11,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_cut_is_silencing(case):
    check_case(*case)
