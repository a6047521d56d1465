"""Half precision: rounding to nearest, ties to even, nothing infinite; recognised in a file again."""

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from small import one_weight, run, stored_proto

from onnxcompress import importer
from onnxcompress.encodings.half import LARGEST, TYPES, Half, HalfPrecision, nearest_half
from onnxcompress.engine.storage import stored


@pytest.mark.parametrize("kind", TYPES)
@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_nothing_is_nearer_and_ties_go_to_even(kind, number):
    found = nearest_half(np.array([number]), kind)
    value = float(found[0])
    bits = int(found.view(np.uint16)[0])
    assert np.isfinite(value)
    neighbours = [
        float(np.array([b & 0xFFFF], np.uint16).view(TYPES[kind])[0].astype(np.float64))
        for b in (bits - 1, bits + 1)
    ]
    for other in (n for n in neighbours if np.isfinite(n)):
        assert abs(number - value) <= abs(number - other)
        if other != value and abs(number - value) == abs(number - other) and abs(number) <= LARGEST[kind]:
            assert bits % 2 == 0


def test_no_second_rounding():
    """float64 to bfloat16 by way of float32 would round this one twice, to the wrong side."""
    number = 1 + 2.0**-8 + 2.0**-40
    assert float(np.array([number]).astype(np.float32).astype(ml_dtypes.bfloat16)[0]) == 1.0
    assert float(nearest_half(np.array([number]), "bf16")[0]) == 1 + 2.0**-7
    assert float(nearest_half(np.array([-number]), "bf16")[0]) == -1 - 2.0**-7


@pytest.mark.parametrize("kind", TYPES)
def test_single_precision_rounds_as_numpy_does(kind):
    array = np.random.default_rng(0).normal(size=5000).astype(np.float32) * np.float32(10) ** np.arange(
        -9, 1
    ).repeat(500)
    expected = array.astype(np.float32).astype(TYPES[kind])
    assert nearest_half(array.astype(np.float32), kind).tobytes() == expected.tobytes()


def test_too_large_numbers_become_the_largest():
    assert nearest_half(np.array([1e30, -65520.0, np.float32(65519.9)]), "fp16").tolist() == [
        65504,
        -65504,
        65504,
    ]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("opset", "ir_version"), [(17, 8), (13, 7), (13, 3)])
def test_a_file_is_read_again_as_it_was_written(kind, dtype, opset, ir_version):
    array = np.random.default_rng(1).normal(size=(30, 20)).astype(dtype)
    (encoding,) = HalfPrecision(kind).project([array])
    proto = stored_proto(one_weight(array, opset=opset, ir_version=ir_version), encoding)
    assert np.array_equal(run(proto), encoding.decode())
    again = importer.load(proto)
    (found,) = again.encodings.values()
    assert isinstance(found, Half)
    assert found.dtype == dtype
    assert found.values.tobytes() == encoding.values.tobytes()


def test_bfloat16_needs_a_newer_operator_set():
    array = np.random.default_rng(1).normal(size=(30, 20)).astype(np.float32)
    for kind, refused in (("fp16", False), ("bf16", True)):
        (encoding,) = HalfPrecision(kind).project([array])
        _, refusals = stored.lower(one_weight(array, opset=11).with_encodings({"w": encoding}, "test"))
        assert bool(refusals) is refused
