"""Thresholds of ℓ0 and ℓ1: against all supports, a general solver and the optimality conditions."""

from itertools import product

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from onnxcompress.csteps.thresholds import ball_level, hard_level, shrunk, soft_level

values = st.lists(st.floats(-4, 4, width=32) | st.sampled_from([0.0, -1.0, 1.0]), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(first=values, radius=st.floats(0.01, 12))
def test_ball_agrees_with_a_general_solver(first: list[float], radius: float) -> None:
    w = np.array(first)
    found = shrunk(w, ball_level([w], radius))
    assert np.abs(found).sum() <= radius * (1 + 1e-6)
    # θ = p − q with p, q ≥ 0 makes the ball linear
    n = len(w)
    solved = minimize(
        lambda x: 0.5 * np.square(x[:n] - x[n:] - w).sum(),
        np.zeros(2 * n),
        jac=lambda x: np.concatenate([x[:n] - x[n:] - w, w - x[:n] + x[n:]]),
        bounds=[(0, None)] * (2 * n),
        constraints={"type": "ineq", "fun": lambda x: radius - x.sum(), "jac": lambda x: -np.ones(2 * n)},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    ).x
    assert np.square(found - w).sum() <= np.square(solved[:n] - solved[n:] - w).sum() + 1e-6


@pytest.mark.parametrize("share", [1e-6, 0.01, 0.3, 0.999, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_ball_fulfils_the_optimality_conditions_on_many_weights(share: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.laplace(size=(300, 70)).astype(dtype), rng.normal(size=5000).astype(dtype)]
    whole = sum(float(np.abs(a.astype(np.float64)).sum()) for a in arrays)
    level = ball_level(arrays, share * whole)
    wide = np.concatenate([a.astype(np.float64).ravel() for a in arrays])
    rest = np.maximum(np.abs(wide) - level, 0)
    # on the sphere where the weights lie outside, and every weight shrunk by the same amount or to zero
    if share >= 1:
        assert level == 0
    else:
        assert rest.sum() == pytest.approx(share * whole, rel=1e-6)
    again = np.concatenate([shrunk(a, level).astype(np.float64).ravel() for a in arrays])
    assert (np.sign(again) * np.sign(wide) >= 0).all()
    assert again.astype(np.float32) == pytest.approx(np.sign(wide) * rest, rel=0.01, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(weights=values, alpha=st.floats(1e-3, 3), mu=st.floats(1e-2, 10))
def test_hard_threshold_beats_every_support(weights: list[float], alpha: float, mu: float) -> None:
    w = np.array(weights)

    def objective(theta: np.ndarray) -> float:
        return float(alpha * np.count_nonzero(theta) + mu / 2 * np.square(w - theta).sum())

    found = np.where(np.abs(w) > hard_level(alpha, mu), w, 0)
    best = min(objective(w * np.array(support)) for support in product((0, 1), repeat=len(w)))
    assert objective(found) <= best + 1e-9 * (1 + best)


@settings(max_examples=60, deadline=None)
@given(w=st.floats(-4, 4), alpha=st.floats(1e-3, 3), mu=st.floats(1e-2, 10))
def test_soft_threshold_beats_a_fine_grid(w: float, alpha: float, mu: float) -> None:
    grid = np.append(np.linspace(-4, 4, 4001), w)
    best = (alpha * np.abs(grid) + mu / 2 * np.square(grid - w)).min()
    found = float(shrunk(np.array([w]), soft_level(alpha, mu))[0])
    assert alpha * abs(found) + mu / 2 * (found - w) ** 2 <= best + 1e-12
