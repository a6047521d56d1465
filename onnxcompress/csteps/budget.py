"""One choice for each of several things, each with a cost and an error: the best for a price or a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxcompress.core.encoding import Array


@dataclass(frozen=True, eq=False)
class Choices:
    """What one thing (a layer) can be.

    Attributes:
        costs: (c,) float64 of each choice.
        errors: (c,) float64 of each choice.
    """

    costs: Array
    errors: Array


def at_price(choices: Choices, price: float) -> int:
    """Return the choice with the least ``error + price · cost``; of equal ones the cheapest.

    >>> at_price(Choices(np.array([1.0, 2.0, 3.0]), np.array([9.0, 4.0, 3.5])), 1.0)
    1
    """
    return int(np.lexsort((choices.costs, choices.errors + price * choices.costs))[0])


def within(several: Sequence[Choices], budget: float) -> list[int]:
    """Return a choice for each whose costs sum up to the budget at most, with the least sum of errors.

    The Lagrange multiplier for which the budget is just met gives the best choices on the lower convex hulls
    of error over cost; the rest of the budget is then spent greedily, on the change that takes away most
    error for its cost. The result is exact where the budget is met on the hulls, and otherwise no further
    from the optimum than the one step between two of their points that no longer fits.

    Raises:
        ValueError: the cheapest choices cost more.
    """
    orders = [_improving(c) for c in several]
    chosen = [0] * len(several)
    spent = sum(float(c.costs[order[0]]) for c, order in zip(several, orders, strict=True))
    slack = 1e-9 * max(abs(budget), 1.0)
    if spent > budget + slack:
        raise ValueError(f"the cheapest choices cost {spent:g}, more than {budget:g}")
    for which, place in _hull_steps(several, orders):
        costs = several[which].costs
        more = float(costs[orders[which][place]] - costs[orders[which][chosen[which]]])
        if spent + more > budget + slack:
            break
        chosen[which], spent = place, spent + more
    _fill(several, orders, chosen, budget + slack - spent)
    return [int(order[place]) for order, place in zip(orders, chosen, strict=True)]


def _improving(choices: Choices) -> Array:
    """Return the choices that nothing cheaper beats, by cost: their errors fall."""
    order = np.lexsort((choices.errors, choices.costs))
    errors = choices.errors[order]
    before = np.minimum.accumulate(np.append(np.inf, errors[:-1]))
    return np.asarray(order[errors < before])


def _hull_steps(several: Sequence[Choices], orders: Sequence[Array]) -> list[tuple[int, int]]:
    """Return the steps along the lower convex hulls, as (thing, place in its order), steepest first."""
    steps: list[tuple[float, int, int]] = []
    for which, (choices, order) in enumerate(zip(several, orders, strict=True)):
        costs, errors, place = choices.costs[order], choices.errors[order], 0
        while place < len(order) - 1:
            slopes = (errors[place] - errors[place + 1 :]) / (costs[place + 1 :] - costs[place])
            best = place + 1 + int(np.argmax(slopes))
            steps.append((-float(slopes.max()), which, best))
            place = best
    # Along one hull slopes fall, so that sorting keeps the order of its steps.
    steps.sort(key=lambda step: step[:2])
    return [(which, place) for _, which, place in steps]


def _fill(several: Sequence[Choices], orders: Sequence[Array], chosen: list[int], left: float) -> None:
    """Spend what is left, in place."""
    while True:
        best: tuple[float, int, int, float] | None = None
        for which, (choices, order) in enumerate(zip(several, orders, strict=True)):
            costs, errors = choices.costs[order], choices.errors[order]
            here = chosen[which]
            last = int(np.searchsorted(costs, costs[here] + left, side="right"))
            if last <= here + 1:
                continue
            more = costs[here + 1 : last] - costs[here]
            slopes = (errors[here] - errors[here + 1 : last]) / more
            place = int(np.argmax(slopes))
            if best is None or slopes[place] > best[0]:
                best = float(slopes[place]), which, here + 1 + place, float(more[place])
        if best is None:
            return
        _, which, place, more_cost = best
        chosen[which], left = place, left - more_cost
