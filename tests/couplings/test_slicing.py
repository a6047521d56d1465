"""Joining, cutting apart, gathering and scattering: what is free, and that a cut is silencing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cutting import check_case, image, ints, sequence

CASES = {
    "concat": (image("c = Conv(h, k) z = Concat<axis=1>(h, c)", {"k": (4, 8, 1, 1)}, after=12), 12),
    "concat with itself": (image("z = Concat<axis=1>(h, h)", after=16), 8),
    "concat in space": (image("c = Conv(h, k) z = Concat<axis=2>(h, c)", {"k": (8, 8, 1, 1)}), 8),
    "dense block": (
        image(
            "a = Conv(h, k) c = Concat<axis=1>(h, a) d = Conv(c, l) z = Concat<axis=1>(c, d)",
            {"k": (4, 8, 1, 1), "l": (6, 12, 1, 1)},
            after=18,
        ),
        18,
    ),
    "split": (image("p, q = Split<axis=1>(h, s) r = Relu(p) z = Concat<axis=1>(q, r)", {"s": ints(3, 5)}), 8),
    "split equally": (image("p, q = Split<axis=1, num_outputs=2>(h) z = Concat<axis=1>(q, p)"), 8),
    "split of 13": (image("p, q = Split<axis=1>(h) z = Concat<axis=1>(q, p)", opset=13), 8),
    "split of old": (image("p, q = Split<axis=1>(h) z = Concat<axis=1>(q, p)", opset=11), 8),
    "split of old by sizes": (
        image("p, q = Split<axis=1, split=[3,5]>(h) z = Concat<axis=1>(q, p)", opset=11),
        8,
    ),
    "c2f": (
        image(
            "p, q = Split<axis=1>(h, s) r = Conv(q, k) t = Add(q, r) z = Concat<axis=1>(p, q, t)",
            {"s": ints(4, 4), "k": (4, 4, 1, 1)},
            after=12,
        ),
        8,
    ),
    "slice": (image("z = Slice(h, s, e, a)", {"s": ints(2), "e": ints(7), "a": ints(1)}, after=5), 5),
    "slice from the end": (
        image("z = Slice(h, s, e, a)", {"s": ints(-6), "e": ints(2**62), "a": ints(-3)}, after=6),
        6,
    ),
    "slice backwards": (
        image("z = Slice(h, s, e, a, d)", {"s": ints(-1), "e": ints(-(2**62)), "a": ints(1), "d": ints(-1)}),
        8,
    ),
    "slice with a stride": (
        image("z = Slice(h, s, e, a, d)", {"s": ints(1), "e": ints(8), "a": ints(1), "d": ints(2)}, after=4),
        4,
    ),
    "slice backwards with a stride": (
        image(
            "z = Slice(h, s, e, a, d)", {"s": ints(7), "e": ints(-99), "a": ints(1), "d": ints(-2)}, after=4
        ),
        4,
    ),
    "slice of old": (image("z = Slice<starts=[2], ends=[1000], axes=[1]>(h)", after=6, opset=9), 6),
    "slice of positions": (
        image("z = Slice(h, s, e, a)", {"s": ints(1, 0), "e": ints(5, 3), "a": ints(2, 3)}),
        8,
    ),
    "focus": (
        image(
            "p = Slice(h, s, e, a, d) q = Slice(h, t, e, a, d) z = Concat<axis=1>(p, q)",
            {"s": ints(0), "t": ints(1), "e": ints(99), "a": ints(2), "d": ints(2)},
            after=16,
        ),
        8,
    ),
    "gather": (image("z = Gather<axis=1>(h, i)", {"i": ints(5, 0, 3, 3, -1)}, after=5), 4),
    "embedding": (
        (
            "e = Gather(t, x) m = MatMul(e, w) y = MatMul(m, v)",
            {"t": (9, 8), "w": (8, 7), "v": (7, 5)},
            {"inputs": "int64[2,5] x"},
        ),
        15,
    ),
    "scatter slices": (
        image(
            "r = Relu(h) p = Slice(r, s, e, a) q = Neg(p) z = ScatterND(h, i, q)",
            {
                "s": ints(2),
                "e": ints(5),
                "a": ints(1),
                "i": np.stack(np.meshgrid(range(2), range(2, 5), indexing="ij"), -1).astype(np.int64),
            },
        ),
        8,
    ),
    "scatter trailing": (
        sequence("z = ScatterND(h, i, u)", {"i": ints(0, 1).reshape(2, 1)[:1], "u": (1, 5, 8)}),
        8,
    ),
    "scatter elements": (
        sequence(
            "z = ScatterElements<axis=1>(h, i, u)", {"i": np.zeros((2, 1, 8), np.int64), "u": (2, 1, 8)}
        ),
        8,
    ),
    "gather elements": (sequence("z = GatherElements<axis=1>(h, i)", {"i": np.ones((2, 3, 8), np.int64)}), 8),
    "gather nd": (sequence("z = GatherND(h, i)", {"i": np.array([[0, 1], [1, 2]])}), 8),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_cut_is_silencing(case):
    check_case(*case)
