"""Fixed levels: the best scale against a fine grid, closed forms against the general search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.csteps.levels import integer_grid, powers_of_two
from onnxcompress.csteps.nearest import nearest
from onnxcompress.csteps.pow2 import nearest_power
from onnxcompress.csteps.scale import _search, best_scales
from onnxcompress.csteps.sign import binary_scales
from onnxcompress.csteps.ternary import ternary_scales

LEVELS = {
    "binary": np.array([-1.0, 1.0]),
    "ternary": np.array([-1.0, 0.0, 1.0]),
    "int1": integer_grid(2),
    "int2": integer_grid(4),
    "int4": integer_grid(16),
    "int3 symmetric": integer_grid(8, symmetric=True),
    "five": integer_grid(5),
    "no zero": integer_grid(4, zero=False),
    "powers": powers_of_two(8),
}
values = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12)


def distortion(weights: np.ndarray, scale: float, levels: np.ndarray) -> float:
    return float(np.square(weights[:, None] - scale * levels[None]).min(axis=1).sum())


@pytest.mark.parametrize("kind", LEVELS)
@settings(max_examples=40, deadline=None)
@given(weights=values)
def test_no_scale_on_a_fine_grid_is_better(kind: str, weights: list[float]) -> None:
    w, levels = np.array(weights), LEVELS[kind]
    found = best_scales(w[None], levels)[0]
    grid = np.linspace(0, 12, 1500)
    best = min(distortion(w, a, levels) for a in grid)
    assert distortion(w, found, levels) <= best + 1e-9 * (1 + np.square(w).sum())


@pytest.mark.parametrize("kind", LEVELS)
def test_the_search_for_large_weights_agrees_with_the_sweep(kind: str) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 3000))
    levels = LEVELS[kind]
    swept, together = best_scales(rows, levels), _search(rows, levels)
    alone = np.concatenate([_search(row[None], levels) for row in rows])
    for row, a, b, c in zip(rows, swept, together, alone, strict=True):
        assert distortion(row, b, levels) <= distortion(row, a, levels) * (1 + 1e-4)
        assert distortion(row, c, levels) <= distortion(row, a, levels) * (1 + 1e-4)


@settings(max_examples=60, deadline=None)
@given(weights=values)
def test_closed_forms_agree_with_the_sweep(weights: list[float]) -> None:
    w = np.array(weights)
    for levels, scale in (
        (LEVELS["binary"], binary_scales(w[None])[0]),
        (LEVELS["ternary"], ternary_scales(w[None])[0]),
    ):
        best = distortion(w, best_scales(w[None], levels)[0], levels)
        assert distortion(w, scale, levels) == pytest.approx(best, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(weights=values, smallest=st.integers(0, 6))
def test_the_closed_form_of_powers_is_the_nearest_level(weights: list[float], smallest: int) -> None:
    w, levels = np.array(weights), powers_of_two(2 * smallest + 3)
    assert len(levels) == 2 * smallest + 3
    expected = levels[nearest(w, levels)]
    assert np.allclose(np.abs(w - nearest_power(w, smallest)), np.abs(w - expected), rtol=0, atol=1e-12)


def test_zeros_and_an_already_scaled_grid() -> None:
    assert best_scales(np.zeros((2, 5)), integer_grid(4)).tolist() == [0, 0]
    assert best_scales(np.zeros((1, 0)), integer_grid(4)).tolist() == [0]
    w = 0.25 * np.array([-2.0, -1, 0, 1, 1])
    assert best_scales(w[None], integer_grid(4))[0] == pytest.approx(0.25)


def test_grids() -> None:
    assert integer_grid(4).tolist() == [-2, -1, 0, 1]
    assert integer_grid(5).tolist() == [-2, -1, 0, 1, 2]
    assert integer_grid(16, symmetric=True).tolist() == list(range(-7, 8))
    assert integer_grid(4, zero=False).tolist() == [-3, -1, 1, 3]
    assert powers_of_two(16).tolist()[-3:] == [0.25, 0.5, 1]
