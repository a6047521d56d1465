"""What every encoding and every projection promises, over all of them."""

import sys
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.core.encoding import Encoding
from onnxcompress.encodings._base import ENCODINGS, Projection
from onnxcompress.encodings.additive import Sum
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.dense import Dense
from onnxcompress.encodings.half import HalfPrecision
from onnxcompress.encodings.lowrank import FixedRank, LearnedRank
from onnxcompress.encodings.scaled import Binary, IntGrid, PowersOfTwo, Ternary
from onnxcompress.encodings.sparse import L1Ball, Pruning
from onnxcompress.encodings.sparse_codebook import PruneCodebook
from onnxcompress.encodings.trellis import TrellisCodebook

sys.path.insert(0, str(Path(__file__).parents[1] / "encodings"))
from small import left, one_weight, packed_bytes, run, stored_proto

PROJECTIONS: dict[str, Projection] = {
    **{f"adaptive {k}": AdaptiveCodebook(k) for k in (2, 3, 4, 5, 8, 16, 100, 256)},
    "adaptive zero": AdaptiveCodebook(4, pin_zero=True),
    "adaptive channel": AdaptiveCodebook(4, granularity="channel", axis=1),
    "adaptive group": AdaptiveCodebook(3, granularity="group", axis=0, group_size=50),
    "binary": Binary(),
    "binary unscaled": Binary(scaled=False),
    "binary channel": Binary(granularity="channel"),
    "ternary": Ternary(),
    "ternary group": Ternary(granularity="group", axis=1, group_size=64),
    "powers": PowersOfTwo(entries=8),
    "powers unscaled": PowersOfTwo(entries=16, scaled=False),
    "int": IntGrid(entries=16),
    "int channel": IntGrid(entries=4, granularity="channel", axis=1),
    "int group": IntGrid(entries=256, granularity="group", axis=0, group_size=33),
    "int no zero": IntGrid(entries=4, zero=False),
    "int symmetric": IntGrid(entries=8, symmetric=True),
    "half zeros": Pruning(0.5),
    "mostly zeros": Pruning(0.04),
    "half zeros, codebook": PruneCodebook(4, 0.5),
    "mostly zeros, codebook": PruneCodebook(3, 0.04),
    "half precision": HalfPrecision("fp16"),
    "bfloat16": HalfPrecision("bf16"),
    "l1 ball": L1Ball(20.0),
    "rank 3": FixedRank(3),
    "rank 5, scheme 2": FixedRank(5, scheme="2"),
    "rank learned": LearnedRank(keep=0.4),
    "codebook and corrections": Sum((AdaptiveCodebook(2), Pruning(0.02))),
    "low rank and corrections": Sum((FixedRank(3), Pruning(0.02))),
    "trellis 2": TrellisCodebook(2),
    "trellis 3": TrellisCodebook(3, window=7),
}
SHAPE = (24, 13, 3, 3)


LOCAL = {"codebook and corrections", "low rank and corrections", "trellis 2", "trellis 3"}
"""Local optima: what is found depends on where the search starts, at the feasible point itself here."""


def weight(seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).laplace(0, 0.1, shape).astype(dtype)


def project(name: str, array: np.ndarray) -> Encoding:
    return PROJECTIONS[name].project([array])[0]


def again(name: str, encoding: Encoding) -> np.ndarray:
    """Return the projection of a feasible point."""
    start = [encoding] if name in LOCAL else None
    return PROJECTIONS[name].project([encoding.decode()], previous=start)[0].decode()


def distance(array: np.ndarray, encoding: Encoding) -> float:
    return float(np.square(array.astype(np.float64) - encoding.decode().astype(np.float64)).sum())


def rounding(name: str, array: np.ndarray) -> float:
    """Return what rounding may move a weight by: products of factors are rounded as sums, not one by one."""
    return 1e-6 * float(np.abs(array).max()) if "rank" in name else 0.0


def test_every_registered_encoding_is_covered() -> None:
    covered = {project(name, weight()).kind for name in PROJECTIONS} | {"dense"}
    assert covered == set(ENCODINGS)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_decoded_values_have_shape_and_type(name: str) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        encoding = project(name, weight(dtype=dtype))
        decoded = encoding.decode()
        assert decoded.shape == encoding.shape == SHAPE
        assert decoded.dtype == encoding.dtype == dtype


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projecting_a_feasible_point_returns_it(name: str) -> None:
    encoding = project(name, weight())
    decoded = encoding.decode()
    assert np.allclose(again(name, encoding), decoded, rtol=1e-6, atol=rounding(name, decoded))


@pytest.mark.parametrize("name", PROJECTIONS)
def test_no_sampled_feasible_point_is_closer(name: str) -> None:
    array = weight(1)
    best = distance(array, project(name, array))
    rng = np.random.default_rng(2)
    # Entries and paths of a trellis are found in turn: a local optimum, one of many that are about as good.
    slack = 0.1 if "trellis" in name else 1e-4
    for size in (1e-3, 1e-2, 0.1, 1.0):
        other = project(name, (array + size * rng.normal(0, 0.1, array.shape)).astype(array.dtype))
        assert distance(array, other) >= best * (1 - slack)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_changed_code_is_further_away(name: str) -> None:
    """Negative control of the test above: codes of the nearest entries cannot be improved one by one."""
    array = weight(3)
    found = project(name, array).decode()
    swapped = found.copy().reshape(-1)
    swapped[:50] = np.roll(swapped[:50], 7)
    assert np.square(array.reshape(-1) - swapped).sum() > np.square(array - found).sum()


@pytest.mark.parametrize("name", PROJECTIONS)
def test_take_commutes_with_decode(name: str) -> None:
    encoding = project(name, weight())
    for axis, keep in ((0, [0, 3, 4, 20]), (1, [1, 2, 12]), (2, [0, 2])):
        kept = encoding.take(axis, np.array(keep))
        assert np.array_equal(kept.decode(), encoding.decode().take(keep, axis))
        assert kept.shape == kept.decode().shape


@pytest.mark.parametrize("name", PROJECTIONS)
def test_the_weight_is_the_sum_of_what_its_numbers_make(name: str) -> None:
    encoding = project(name, weight())
    total = np.zeros(SHAPE)
    for numbers in encoding.numbers():
        places = np.arange(total.size).reshape(SHAPE) if numbers.places is None else numbers.places
        made = np.append(numbers.values.astype(np.float64), 0)[places]
        total = total + (made if numbers.factors is None else made * numbers.factors)
    if encoding.numbers():
        assert np.array_equal(total.astype(np.float32), encoding.decode())
    same = encoding.with_numbers([numbers.values for numbers in encoding.numbers()])
    assert np.array_equal(same.decode(), encoding.decode())
    assert same.stored_bits() == encoding.stored_bits()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_the_emitted_graph_decodes_bit_by_bit_and_folds(name: str, dtype: type) -> None:
    array = weight(4, (40, 31, 3, 3), dtype)
    encoding = project(name, array)
    if encoding.stored_bits() >= 8 * array.nbytes:
        pytest.skip("half precision makes nothing of 16 bits smaller: it stays as it is")
    proto = stored_proto(one_weight(array), encoding)
    assert run(proto).tobytes() == encoding.decode().tobytes()
    assert left(proto) <= {"Identity"}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_stored_bits_are_the_bytes_in_the_file(name: str) -> None:
    array = weight(5, (40, 31, 3, 3))
    encoding = project(name, array)
    proto = stored_proto(one_weight(array), encoding)
    assert encoding.stored_bits() == 8 * packed_bytes(proto)
    assert encoding.information_bits() <= encoding.stored_bits()


def test_dense_is_itself() -> None:
    array = weight()
    dense = Dense(array)
    assert dense.decode() is array
    assert dense.stored_bits() == 32 * array.size
    assert np.array_equal(dense.take(1, np.array([0, 5])).decode(), array[:, [0, 5]])


ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=9),
    elements=st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.5, 0.5, 1e-6]),
)
"""Weights with ties, zeros, one value only, one element only."""

FREE = [
    name
    for name, kind in PROJECTIONS.items()
    if getattr(kind, "granularity", "tensor") != "group" and not isinstance(kind, LearnedRank)
]
"""Projections that take any shape of two or more axes."""


@pytest.mark.parametrize("name", FREE)
@settings(max_examples=25, deadline=None)
@given(array=ARRAYS)
def test_any_array_is_projected_to_a_feasible_point_no_further_than_zero(
    name: str, array: np.ndarray
) -> None:
    encoding = project(name, array)
    decoded = encoding.decode()
    assert decoded.shape == array.shape
    assert decoded.dtype == array.dtype
    assert np.isfinite(decoded).all()
    assert np.allclose(again(name, encoding), decoded, rtol=1e-5, atol=max(1e-7, rounding(name, decoded)))
    keep = np.arange(0, array.shape[0], 2)
    assert np.array_equal(encoding.take(0, keep).decode(), decoded[keep])
    if "unscaled" not in name:  # a scale of 0 is feasible
        assert (
            distance(array, encoding) <= float(np.square(array.astype(np.float64)).sum()) * (1 + 1e-6) + 1e-9
        )
