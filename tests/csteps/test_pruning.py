"""The κ largest weights: against every choice of κ, with ties and over several arrays."""

from itertools import combinations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.csteps.pruning import largest

values = st.lists(st.sampled_from([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(first=values, second=values, kept=st.integers(0, 18))
def test_no_choice_of_as_many_is_closer(first: list[float], second: list[float], kept: int) -> None:
    arrays = [np.array(first), np.array(second)]
    joined = np.concatenate(arrays)
    stay = np.concatenate(largest(arrays, kept))
    assert stay.sum() == min(kept, len(joined))
    lost = float(np.square(joined[~stay]).sum())
    best = min(
        float(np.square(np.delete(joined, list(chosen))).sum())
        for chosen in combinations(range(len(joined)), min(kept, len(joined)))
    )
    assert lost == best


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_every_type_and_shape(dtype: type) -> None:
    array = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(dtype)
    (stay,) = largest([array], 30)
    assert stay.shape == array.shape
    assert stay.sum() == 30
    wide = np.abs(array.astype(np.float64))
    assert wide[stay].min() >= wide[~stay].max()


def test_of_equal_weights_the_first_stay() -> None:
    first, second = largest([np.ones((2, 2)), -np.ones(3)], 5)
    assert first.all()
    assert second.tolist() == [True, False, False]
