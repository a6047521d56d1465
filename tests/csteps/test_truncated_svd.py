"""Truncated SVD: against the optimality conditions, the Gram route, and matrices of known rank."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.csteps import lowrank
from onnxcompress.csteps.lowrank import decompose


def matrix(n: int, m: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, m))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 12), m=st.integers(1, 12), seed=st.integers(0, 99), rank=st.integers(1, 12))
def test_the_error_is_what_the_singular_values_leave_over(n: int, m: int, seed: int, rank: int) -> None:
    array = matrix(n, m, seed)
    found = decompose(array)
    left, right = found.truncated(rank)
    rank = min(rank, n, m)
    assert left.shape == (n, rank)
    assert right.shape == (rank, m)
    expected = np.square(np.linalg.svd(array, compute_uv=False)[rank:]).sum()
    assert np.isclose(np.square(array - left @ right).sum(), expected, atol=1e-20)
    assert np.isclose(found.left_over()[rank], expected, atol=1e-20)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (50, 50)])
def test_the_gram_matrix_gives_the_same(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    array = matrix(*shape)
    exact = decompose(array)
    monkeypatch.setattr(lowrank, "SMALL", 0)
    fast = decompose(array)
    assert np.allclose(fast.values, exact.values, rtol=1e-10)
    for rank in (1, 7, 40):
        ours, theirs = (np.matmul(*d.truncated(rank)) for d in (fast, exact))
        assert np.allclose(ours, theirs, atol=1e-10)


def test_no_sampled_matrix_of_the_rank_is_closer() -> None:
    array, rng = matrix(9, 14), np.random.default_rng(1)
    left, right = decompose(array).truncated(3)
    best = np.square(array - left @ right).sum()
    for size in (1e-4, 1e-2, 1.0):
        other = (left + size * rng.normal(size=left.shape)) @ (right + size * rng.normal(size=right.shape))
        assert np.square(array - other).sum() > best


def test_a_matrix_of_the_rank_stays_itself_and_one_less_does_not() -> None:
    array = matrix(20, 5) @ matrix(5, 30, 1)
    found = decompose(array)
    assert np.allclose(np.matmul(*found.truncated(5)), array, atol=1e-12)
    assert not np.allclose(np.matmul(*found.truncated(4)), array, atol=1e-2)


def test_both_factors_are_of_one_size_and_zero_is_harmless() -> None:
    left, right = decompose(100 * matrix(8, 6)).truncated(4)
    assert np.allclose(np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1))
    left, right = decompose(np.zeros((4, 3))).truncated(2)
    assert not left.any()
    assert not right.any()
    assert decompose(np.zeros((0, 3))).left_over().tolist() == [0.0]


def test_the_same_matrix_gives_the_same_factors() -> None:
    first, second = (decompose(matrix(30, 20, 5)).truncated(6) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
