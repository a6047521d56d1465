"""Choices for a price and within a budget: against every combination."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.csteps.budget import Choices, at_price, within


def spectra(seed: int, layers: int) -> list[Choices]:
    """Ranks 1 to k of random spectra, and a whole layer of no error."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(layers):
        squares = np.sort(np.square(rng.laplace(size=rng.integers(2, 6))))[::-1]
        errors = np.append(np.cumsum(squares[::-1])[::-1][1:], 0.0)
        price = float(rng.integers(1, 9))
        costs = price * np.arange(1, len(squares) + 1)
        found.append(Choices(np.append(costs, costs[-1] - 0.5 * price), np.append(errors, 0.0)))
    return found


def total(several: list[Choices], chosen: tuple[int, ...] | list[int], what: str) -> float:
    return float(sum(getattr(c, what)[i] for c, i in zip(several, chosen, strict=True)))


def every(several: list[Choices]) -> list[tuple[int, ...]]:
    return list(product(*(range(len(c.costs)) for c in several)))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_within_a_budget_next_to_the_best_of_all_combinations(seed: int, share: float) -> None:
    several = spectra(seed, 3)
    least = sum(float(c.costs.min()) for c in several)
    most = sum(float(c.costs.max()) for c in several)
    budget = least + share * (most - least)
    chosen = within(several, budget)
    assert total(several, chosen, "costs") <= budget * (1 + 1e-9)
    best = min(total(several, c, "errors") for c in every(several) if total(several, c, "costs") <= budget)
    step = max(float(c.errors.max()) for c in several)
    assert best - 1e-12 <= total(several, chosen, "errors") <= best + step


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), price=st.floats(1e-3, 2.0))
def test_the_budget_that_a_price_comes_to_gives_what_the_price_gives(seed: int, price: float) -> None:
    """On the convex hull the multiplier's solution is the optimum, and ``within`` is exact."""
    several = spectra(seed, 4)
    by_price = [at_price(c, price) for c in several]
    budget = total(several, by_price, "costs")
    chosen = within(several, budget)
    assert np.isclose(total(several, chosen, "errors"), total(several, by_price, "errors"))
    assert total(several, chosen, "errors") <= 1e-9 + min(
        total(several, c, "errors") for c in every(several) if total(several, c, "costs") <= budget + 1e-9
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), price=st.floats(0, 5.0))
def test_at_a_price_nothing_is_better(seed: int, price: float) -> None:
    (choices,) = spectra(seed, 1)
    objective = choices.errors + price * choices.costs
    assert objective[at_price(choices, price)] == objective.min()


def test_one_thing_alone_gets_the_best_that_fits() -> None:
    choices = Choices(np.array([1.0, 2.0, 2.5, 4.0]), np.array([9.0, 8.9, 1.0, 0.0]))
    assert [within([choices], b)[0] for b in (1.0, 2.2, 3.9, 4.0)] == [0, 1, 2, 3]


def test_too_small_a_budget_is_told() -> None:
    with pytest.raises(ValueError, match="cheapest choices cost 3"):
        within([Choices(np.array([3.0]), np.array([1.0]))], 2.0)


def test_choices_that_cost_more_and_are_worse_are_never_taken() -> None:
    choices = Choices(np.array([1.0, 5.0, 6.0]), np.array([2.0, 3.0, 1.0]))
    assert within([choices], 5.5) == [0]
    assert within([choices], 6.0) == [2]


def test_a_budget_that_is_just_met_is_met_whatever_the_sum_is_rounded_to() -> None:
    several = [Choices(np.array([0.1, 0.2]), np.array([1.0, 0.0]))] * 3
    assert sum(0.1 for _ in several) > 0.3
    assert within(several, 0.3) == [0, 0, 0]
    assert within(several, 0.6) == [1, 1, 1]
