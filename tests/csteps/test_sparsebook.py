"""Codebook over the weights that stay: against brute force, and large problems against the exact solution."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.csteps import sparsebook
from onnxcompress.csteps.sparsebook import gains, sparse_kmeans, support

NUMBERS = st.lists(
    st.floats(-4, 4, width=32) | st.sampled_from([0.0, 1.0, -1.0, 2.0]), min_size=1, max_size=7
)


def distortion(w: np.ndarray, entries: np.ndarray, kept: int) -> float:
    stay = support(w, entries, kept)
    assert np.count_nonzero(stay) <= kept
    nearest = np.square(w[:, None] - entries).min(axis=1)
    return float(np.where(stay, nearest, np.square(w)).sum())


def least(w: np.ndarray, kept: int, entries: int) -> float:
    """Every assignment to zero or one of K entries, each entry the mean of its weights."""
    best = np.inf
    for labels in itertools.product(range(entries + 1), repeat=len(w)):
        of = np.array(labels)
        if np.count_nonzero(of) <= kept:
            means = np.array(
                [0.0] + [w[of == k].mean() if (of == k).any() else 0.0 for k in range(1, entries + 1)]
            )
            best = min(best, float(np.square(w - means[of]).sum()))
    return best


@settings(max_examples=60, deadline=None)
@given(numbers=NUMBERS, kept=st.integers(1, 8), entries=st.integers(1, 3))
def test_nothing_is_closer(numbers: list[float], kept: int, entries: int) -> None:
    w = np.array(numbers)
    if len(w) * np.log(entries + 1) > 8:
        w = w[:5]
    found = sparse_kmeans(w, kept, entries)
    assert found.shape == (entries,)
    assert np.all(np.diff(found) >= 0)
    assert distortion(w, found, kept) <= least(w, kept, entries) + 1e-9


@settings(max_examples=60, deadline=None)
@given(numbers=NUMBERS, kept=st.integers(1, 8), seed=st.integers(0, 99))
def test_the_support_is_the_best_for_the_entries(numbers: list[float], kept: int, seed: int) -> None:
    w, entries = np.array(numbers), np.sort(np.random.default_rng(seed).normal(0, 2, 3))
    near = np.square(w[:, None] - entries).min(axis=1)
    best = min(
        float(np.where(np.isin(np.arange(len(w)), chosen), near, np.square(w)).sum())
        for count in range(min(kept, len(w)) + 1)
        for chosen in itertools.combinations(range(len(w)), count)
    )
    assert distortion(w, entries, kept) == pytest.approx(best, abs=1e-9)
    assert np.allclose(gains(w, entries), np.square(w) - near)


def test_the_support_is_not_that_of_the_largest_weights() -> None:
    """Negative control: cutting by magnitude first and clustering then is further away."""
    w = np.array([1.0, 1.0, 1.0, -1.2, -1.2])
    found = sparse_kmeans(w, 3, 1)
    assert found == [1.0]
    assert support(w, found, 3).tolist() == [True, True, True, False, False]
    largest = np.array([1.0, -1.2, -1.2])
    assert distortion(w, found, 3) < 2 + np.square(largest - largest.mean()).sum()


def test_fewer_stay_where_more_would_move_the_entries_too_far() -> None:
    w = np.array([3.0, 0.2])
    assert sparse_kmeans(w, 2, 1) == [3.0]
    assert np.count_nonzero(support(w, np.array([3.0]), 2)) == 1


@pytest.mark.parametrize(("keep", "entries"), [(0.1, 4), (0.02, 16), (0.5, 2), (1.0, 3)])
def test_large_problems_come_close_to_the_exact_solution(monkeypatch, keep: float, entries: int) -> None:
    w = np.random.default_rng(0).laplace(0, 0.1, 30_000).astype(np.float32)
    kept = int(keep * len(w))
    monkeypatch.setattr(sparsebook, "_EXACT", 1 << 30)
    exact = distortion(w.astype(np.float64), sparse_kmeans(w, kept, entries), kept)
    monkeypatch.setattr(sparsebook, "_EXACT", 0)
    found = sparse_kmeans(w, kept, entries)
    assert distortion(w.astype(np.float64), found, kept) <= exact * (1 + 1e-4)
    warm = sparse_kmeans(w, kept, entries, previous=found * 1.05)
    assert distortion(w.astype(np.float64), warm, kept) <= exact * (1 + 1e-4)


def test_a_warm_start_is_never_worse_than_where_it_starts(monkeypatch) -> None:
    monkeypatch.setattr(sparsebook, "_EXACT", 0)
    monkeypatch.setattr(sparsebook, "_ATOMS", 4)
    rng = np.random.default_rng(1)
    for _ in range(20):
        w = rng.standard_t(2, 3000)
        start = np.sort(rng.normal(0, 3, 8))
        found = sparse_kmeans(w, 300, 8, previous=start)
        assert distortion(w, found, 300) <= distortion(w, start, 300) * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale(scale: float) -> None:
    w = np.random.default_rng(2).normal(size=500)
    assert np.allclose(sparse_kmeans(w * scale, 50, 4), sparse_kmeans(w, 50, 4) * scale, rtol=1e-9)


def test_weights_of_zero() -> None:
    assert np.array_equal(sparse_kmeans(np.zeros(5), 2, 3), np.zeros(3))
    assert not support(np.zeros(5), np.zeros(3), 2).any()
