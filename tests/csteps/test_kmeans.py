"""k-means in one dimension against brute force, against exact dynamic programming, and on awkward input."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.csteps import kmeans as module
from onnxcompress.csteps.kmeans import kmeans, kmeans_rows
from onnxcompress.csteps.nearest import nearest, nearest_rows
from onnxcompress.csteps.segmentation import segment

GAP = 1e-4


def distortion(values: np.ndarray, entries: np.ndarray) -> float:
    wide = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    return float(np.square(wide - entries[None]).min(axis=1).sum())


def brute_force(values: np.ndarray, entries: int, zero: bool) -> float:
    """Try every partition of the sorted values into runs, and every run as the one pinned to 0."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    best = np.inf
    for cuts in itertools.combinations_with_replacement(range(len(ordered) + 1), entries - 1):
        runs = np.split(ordered, cuts)
        costs = [float(np.square(r - r.mean()).sum()) if len(r) else 0.0 for r in runs]
        if zero:
            best = min(
                best,
                *(sum(costs) - costs[k] + float(np.square(runs[k]).sum()) for k in range(entries)),
            )
        else:
            best = min(best, sum(costs))
    return best


def optimum(values: np.ndarray, entries: int, zero: bool) -> float:
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    _, gain = segment(counts.astype(np.float64), counts * distinct, entries, zero=zero)
    return float(np.square(np.asarray(values, dtype=np.float64)).sum() - gain)


small = st.lists(
    st.one_of(st.integers(-4, 4).map(float), st.floats(-100, 100, width=32)), min_size=1, max_size=8
)


@settings(max_examples=150, deadline=None)
@given(values=small, entries=st.integers(1, 5), zero=st.booleans())
def test_small_problems_reach_the_optimum(values: list[float], entries: int, zero: bool) -> None:
    array = np.array(values)
    found = kmeans(array, entries, zero=zero)
    assert found.shape == (entries,)
    assert np.all(np.diff(found) >= 0)
    assert not zero or 0.0 in found
    best = brute_force(array, entries, zero)
    assert distortion(array, found) == pytest.approx(best, rel=1e-9, abs=1e-9 * (1 + np.square(array).sum()))


def mixture(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.concatenate([rng.normal(0, 0.02, n - n // 50), rng.normal(0, 0.2, n // 50)]).astype(np.float32)


SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "mixture": mixture,
    "cauchy": lambda rng, n: rng.standard_cauchy(n).astype(np.float32),
    "uniform": lambda rng, n: rng.random(n).astype(np.float32),
    "modes": lambda rng, n: (rng.choice(rng.normal(size=17), n) + rng.normal(0, 0.01, n)).astype(np.float32),
    "grid": lambda rng, n: (np.round(rng.normal(0, 40, n)) / 64).astype(np.float32),
    "half": lambda rng, n: rng.normal(0, 0.05, n).astype(np.float16),
    "lognormal": lambda rng, n: rng.lognormal(0, 2, n).astype(np.float32),
    "far away": lambda rng, n: 1e6 + rng.normal(size=n),
}


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("entries", [2, 3, 4, 7, 16, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_large_problems_are_within_the_gap(
    shape: str, entries: int, zero: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shape != "grid":  # few distinct values are solved exactly
        monkeypatch.setattr(module, "_EXACT", 0)
    monkeypatch.setattr(module, "_EXACT_TWO", 0)
    values = SHAPES[shape](np.random.default_rng(entries), 9000 if entries == 64 else 4000)
    if shape == "far away" and zero:
        pytest.skip("everything but one entry is used for the bulk; 0 is free")
    found = kmeans(values, entries, zero=zero)
    best = optimum(values - (1e6 if shape == "far away" else 0), entries, zero)
    moved = distortion(values, found)
    assert moved <= best * (1 + GAP) + 1e-9


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("shape", ["mixture", "cauchy", "lognormal", "modes"])
def test_256_entries_are_within_the_gap(shape: str, zero: bool) -> None:
    values = SHAPES[shape](np.random.default_rng(0), 6000)
    best = optimum(values, 256, zero)
    assert distortion(values, kmeans(values, 256, zero=zero)) <= best * (1 + GAP)


def test_a_wrong_codebook_is_noticed() -> None:
    values = mixture(np.random.default_rng(0), 4000)
    wrong = np.quantile(values, np.linspace(0.02, 0.98, 16))
    assert distortion(values, wrong) > optimum(values, 16, zero=False) * (1 + 100 * GAP)


def test_every_entry_is_the_mean_of_its_weights_and_every_cut_a_midpoint() -> None:
    values = mixture(np.random.default_rng(1), 50_000)
    entries = kmeans(values, 16)
    codes = nearest(values, entries)
    for k in range(16):
        assert values[codes == k].mean(dtype=np.float64) == pytest.approx(entries[k], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("zero", [False, True])
def test_fewer_distinct_values_than_entries(zero: bool) -> None:
    found = kmeans(np.array([3.0, 3.0, -1.0]), 8, zero=zero)
    assert set(found) == ({-1.0, 0.0, 3.0} if zero else {-1.0, 3.0})
    assert len(found) == 8


def test_constant_single_and_empty() -> None:
    assert np.all(kmeans(np.full(1000, 0.3, np.float32), 4) == np.float64(np.float32(0.3)))
    assert np.all(kmeans(np.array([7.0]), 2) == 7.0)
    assert kmeans(np.zeros((0,), np.float32), 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300])
def test_extreme_magnitudes(size: float) -> None:
    values = np.random.default_rng(0).normal(size=3000)
    assert np.allclose(kmeans(values * size, 4) / size, kmeans(values, 4), rtol=1e-9)


def test_a_warm_start_is_never_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EXACT", 0)
    values = mixture(np.random.default_rng(2), 5000)
    cold = kmeans(values, 16)
    for start in (cold, cold + 0.1, np.zeros(16)):
        assert distortion(values, kmeans(values, 16, previous=start)) <= distortion(values, cold) * (
            1 + 1e-12
        )


@pytest.mark.parametrize("size", [1.0, 1e-150])
@pytest.mark.parametrize("zero", [False, True])
def test_a_warm_start_at_the_optimum_stays_there(
    monkeypatch: pytest.MonkeyPatch, zero: bool, size: float
) -> None:
    values = np.random.default_rng(3).normal(5, 0.1, 5000)
    best = kmeans(values * size, 64, zero=zero)
    assert distortion(values, best / size) <= optimum(values, 64, zero) * (1 + 1e-6)
    monkeypatch.setattr(module, "_EXACT", 0)
    warm = kmeans(values * size, 64, zero=zero, previous=best)
    assert distortion(values, warm / size) <= distortion(values, best / size) * (1 + 1e-12)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("entries", [2, 4, 16])
def test_rows_are_solved_as_well_as_one_by_one(entries: int, zero: bool) -> None:
    rows = np.random.default_rng(3).laplace(size=(20, 300)).astype(np.float32)
    rows[3] = 0.5
    rows[4] = np.repeat(np.arange(3), 100)
    together = kmeans_rows(rows, entries, zero=zero)
    for row, found in zip(rows, together, strict=True):
        assert distortion(row, found) <= optimum(row, entries, zero) * (1 + GAP) + 1e-6


def test_memory_saving_prefix_sums_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = mixture(np.random.default_rng(4), 30_011)
    full = kmeans(values, 16)
    monkeypatch.setattr("onnxcompress.csteps.sortedrows._FULL", 1000)
    assert np.allclose(kmeans(values, 16), full, rtol=1e-12)


@given(
    values=st.lists(st.floats(-3, 3, width=16), min_size=1, max_size=30),
    entries=st.lists(st.floats(-3, 3, width=16), min_size=1, max_size=9),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
@settings(max_examples=100, deadline=None)
def test_nearest_is_nearest_and_takes_the_smaller_on_a_tie(
    values: list[float], entries: list[float], dtype: type
) -> None:
    array, book = np.array(values, dtype), np.sort(np.array(entries, dtype))
    codes = nearest(array, book)
    distance = np.abs(array[:, None].astype(np.float64) - book[None].astype(np.float64))
    assert codes.tolist() == distance.argmin(axis=1).tolist()
    assert nearest_rows(array[None].repeat(2, 0), book[None].repeat(2, 0)).tolist() == [codes.tolist()] * 2
