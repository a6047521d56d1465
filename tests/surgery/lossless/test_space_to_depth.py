"""Convolutions behind a space-to-depth: what is recognised, what stays, and that onnxruntime agrees."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
from cut_graphs import ints, run
from text_graphs import model_of

from onnxcompress.core.simplification import Simplification
from onnxcompress.surgery import simplify

FIXED = "float[2, 3, 12, 8] x"
OPEN = "float[N, 3, H, W] x"
OUTPUT = "float[A, B, C, D] y"
FAR = 2**31 - 1
CONV = "y = Conv <pads = [1, 1, 1, 1]> (d, w, b)"


def weights(channels=12, **more):
    return {"w": (5, channels, 3, 3), "b": (5,), **more}


def slices(order=((0, 0), (1, 0), (0, 1), (1, 1)), end=FAR):
    """Return squares of 2 x 2 cut out row by row, then column by column, as YOLOX does, and the constants."""
    body = "".join(
        f"r{k} = Slice (x, at{dy}, end, rows, two) s{k} = Slice (r{k}, at{dx}, end, columns, two) "
        for k, (dy, dx) in enumerate(order)
    )
    parts = ", ".join(f"s{k}" for k in range(len(order)))
    constants = {"at0": ints(0), "at1": ints(1), "end": ints(end), "rows": ints(2), "columns": ints(3)}
    used = {f"at{n}" for place in order for n in place}
    kept = {n: c for n, c in constants.items() if not n.startswith("at") or n in used}
    return f"{body}d = Concat <axis = 1> ({parts}) ", {**kept, "two": ints(2)}


def once(order):
    """Return the squares cut out along both axes at once."""
    body = "".join(f"s{k} = Slice (x, at{k}, end, both, step) " for k in range(len(order)))
    parts = ", ".join(f"s{k}" for k in range(len(order)))
    starts = {f"at{k}": ints(*place) for k, place in enumerate(order)}
    more = {"end": ints(FAR, FAR), "both": ints(2, 3), "step": ints(2, 2)}
    return f"{body}d = Concat <axis = 1> ({parts}) ", {**starts, **more}


def unshuffle(side=2, channels=3, high=12, wide=8):
    """Return torch's PixelUnshuffle as it is exported."""
    body = "p = Reshape (x, apart) q = Transpose <perm = [0, 1, 3, 5, 2, 4]> (p) d = Reshape (q, together) "
    rows, columns = high // side, wide // side
    constants = {
        "apart": ints(-1, channels, rows, side, columns, side),
        "together": ints(-1, channels * side * side, rows, columns),
    }
    return body, constants


YOLOX, TURNED = slices(), once([(1, 1), (0, 1), (1, 0), (0, 0)])
DEEP = "d = SpaceToDepth <blocksize = 2> (x) "

FORMS = {
    "YOLOX": (YOLOX[0] + CONV, FIXED, weights(**YOLOX[1]), (2, 2)),
    "YOLOX, open sizes": (YOLOX[0] + CONV, OPEN, weights(**YOLOX[1]), (2, 2)),
    "squares from the last pixel to the first": (TURNED[0] + CONV, OPEN, weights(**TURNED[1]), (2, 2)),
    "SpaceToDepth": (DEEP + CONV, OPEN, weights(), (2, 2)),
    "SpaceToDepth of 4": (
        "d = SpaceToDepth <blocksize = 4> (x) y = Conv (d, w)",
        FIXED,
        {"w": (5, 48, 1, 1)},
        (4, 4),
    ),
    "PixelUnshuffle": (unshuffle()[0] + CONV, FIXED, weights(**unshuffle()[1]), (2, 2)),
    "open sizes, sides of 7": (
        "d = SpaceToDepth <blocksize = 7> (x) y = Conv (d, w)",
        "float[N, 1, H, W] x",
        {"w": (5, 49, 1, 1)},
        (7, 7),
    ),
    "one after the other": (
        "c = SpaceToDepth <blocksize = 2> (x) d = SpaceToDepth <blocksize = 2> (c) y = Conv (d, w)",
        FIXED,
        {"w": (5, 48, 1, 1)},
        (4, 4),
    ),
    "rows alone": (
        "e = Slice (x, at0, end, rows, two) o = Slice (x, at1, end, rows, two) "
        f"d = Concat <axis = 1> (e, o) {CONV}",
        OPEN,
        weights(6, at0=ints(0), at1=ints(1), end=ints(FAR), rows=ints(2), two=ints(2)),
        (2, 1),
    ),
    "strides and uneven padding": (
        DEEP + "y = Conv <strides = [2, 1], pads = [0, 1, 2, 1]> (d, w, b)",
        OPEN,
        weights(),
        (2, 2),
    ),
    "a picture between": (
        "r = Relu (x) d = SpaceToDepth <blocksize = 2> (r) " + CONV,
        OPEN,
        weights(),
        (2, 2),
    ),
    "many channels, a kernel of one place": (
        DEEP + "y = Conv (d, w)",
        "float[N, 16, H, W] x",
        {"w": (5, 64, 1, 1)},
        (2, 2),
    ),
    "limits that all of a picture fits in": (
        slices(end=12)[0] + CONV,
        FIXED,
        weights(**slices(end=12)[1]),
        (2, 2),
    ),
}


def simplified(body, inputs, given, shape, *, rounding=True):
    model = model_of(body, inputs, OUTPUT, given)
    shapes = {"x": shape}
    found = simplify(model, Simplification(rounding), shapes, method="lossless", seed=0)
    rules = {c.rule: c for c in found.facts.changes} if found.facts is not None else {}
    return model, found, rules


def shape_of(inputs):
    channels = int(inputs.split(",")[1])
    return (2, channels, 14, 21) if channels == 1 else (2, channels, 12, 8)


def outputs_agree(before, after, shape):
    x = np.random.default_rng(5).normal(size=shape)
    np.testing.assert_allclose(run(after, x=x)["y"], run(before, x=x)["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_the_convolution_reads_the_picture_itself(name):
    body, inputs, given, sides = FORMS[name]
    before, found, rules = simplified(body, inputs, given, shape := shape_of(inputs))
    left = [n.op_type for n in found.model.ir.graph]
    assert left == (["Relu", "Conv"] if "between" in name else ["Conv"])
    assert set(found.model.ir.graph.initializers) == {"w", "b"} & set(given)
    assert not rules["space to depth"].exact
    new, old = found.model.array("w").shape, before.array("w").shape
    assert new[2:] == (old[2] * sides[0], old[3] * sides[1])
    assert found.model.array("w").size == before.array("w").size
    assert found.facts.proof.float64_error < 1e-12
    outputs_agree(before, found.model, shape)
    if inputs == OPEN:
        outputs_agree(before, found.model, (1, 3, 10, 14))


def test_exact_changes_alone_leave_it():
    body, inputs, given, _ = FORMS["SpaceToDepth"]
    _, found, _ = simplified(body, inputs, given, (2, 3, 12, 8), rounding=False)
    assert found.facts is None


SHORT = slices(((0, 0), (1, 0), (0, 1)))
LIMITED = slices(end=12)
STAY = {
    "a square without one of its pixels": (SHORT[0] + CONV, FIXED, weights(9, **SHORT[1]), None),
    "rows in the other direction": (
        "e = Slice (x, last, begin, rows, back) d = SpaceToDepth <blocksize = 2> (e) " + CONV,
        FIXED,
        weights(last=ints(-1), begin=ints(-FAR), rows=ints(2), back=ints(-1)),
        "Slice",
    ),
    "open sizes and a limit that a larger picture passes": (
        LIMITED[0] + CONV,
        OPEN,
        weights(**LIMITED[1]),
        None,
    ),
    "others read it": (
        f"{DEEP} {CONV.replace('y =', 'c =')} z = ReduceMean <keepdims = 0> (d) y = Add (c, z)",
        OPEN,
        weights(),
        "others read",
    ),
    "groups": (DEEP + "y = Conv <group = 3> (d, w)", OPEN, {"w": (6, 4, 3, 3)}, "groups"),
    "dilations": (DEEP + "y = Conv <dilations = [2, 1]> (d, w, b)", OPEN, weights(), "dilations"),
    "padding by size": (DEEP + 'y = Conv <auto_pad = "SAME_UPPER"> (d, w, b)', OPEN, weights(), "size"),
    "a shared weight": (
        DEEP + "a = Conv (d, w, b) c = Relu (x) e = SpaceToDepth <blocksize = 2> (c) f = Conv (e, w, b) "
        "y = Add (a, f)",
        OPEN,
        weights(),
        "shared",
    ),
    "widths that are slow": (
        DEEP + "y = Conv (d, w)",
        "float[N, 12, H, W] x",
        {"w": (5, 48, 1, 1)},
        "12 channels",
    ),
    "kernels that are slow": (
        DEEP + "y = Conv (d, w)",
        "float[N, 16, H, W] x",
        {"w": (5, 64, 3, 3)},
        "16 channels",
    ),
}


@pytest.mark.parametrize("name", STAY)
def test_what_stays_and_why(name):
    body, inputs, given, why = STAY[name]
    before, found, rules = simplified(body, inputs, given, shape_of(inputs))
    left = [n.op_type for n in found.model.ir.graph]
    if why == "Slice":
        # What lies behind the reversal is one; the reversal itself is none.
        assert left == ["Slice", "Conv"]
    else:
        assert "space to depth" not in rules
        assert "Conv" in left
        assert {"Concat", "SpaceToDepth"} & set(left)
        reasons = [r.why for r in found.refusals]
        assert reasons == [] if why is None else all(why in reason for reason in reasons)
        assert bool(reasons) == (why is not None)
    outputs_agree(before, found.model, shape_of(inputs))


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 4),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    seed=st.integers(0, 1000),
)
def test_any_order_of_the_pixels_in_any_squares(channels, rows, columns, kernel, strides, pads, seed):
    """onnxruntime gives the same for the slices, in any order, and for the convolution that took them in."""
    rng = np.random.default_rng(seed)
    places = list(itertools.product(range(rows), range(columns)))
    rng.shuffle(places)
    body = "".join(f"s{k} = Slice (x, at{k}, end, both, step) " for k in range(len(places)))
    parts = ", ".join(f"s{k}" for k in range(len(places)))
    mixed = rng.permutation(channels * rows * columns)
    body += (
        f"c = Concat <axis = 1> ({parts}) d = Gather <axis = 1> (c, mixed) "
        f"y = Conv <strides = [{strides[0]}, {strides[1]}], pads = {list(pads)}> (d, w, b)"
    )
    given_weights = {
        **{f"at{k}": ints(*map(int, place)) for k, place in enumerate(places)},
        "end": ints(FAR, FAR),
        "both": ints(2, 3),
        "step": ints(rows, columns),
        "mixed": mixed.astype(np.int64),
        "w": (3, len(mixed), *kernel),
        "b": (3,),
    }
    shape = (2, channels, 5 * rows, 4 * columns)
    before, found, rules = simplified(body, f"float[N, {channels}, H, W] x", given_weights, shape)
    assert ("space to depth" in rules) == (rows * columns > 1)
    if rows * columns > 1:
        assert [n.op_type for n in found.model.ir.graph] == ["Conv"]
    outputs_agree(before, found.model, shape)
