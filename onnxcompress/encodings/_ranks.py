"""What a weight of low rank may become, what each rank costs, and by what errors of weights are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.encodings._layout import WORTH, Layout, most_useful, ranks_up_to


@dataclass(frozen=True)
class Option:
    """One way to factor a weight.

    Attributes:
        layout: as which matrix.
        cost: what one more rank costs in whatever is to be saved.
        damage: what a unit of squared error costs in the outputs, for every rank from 0 on; None: not known.
    """

    layout: Layout
    cost: float
    damage: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Options:
    """What a weight may become.

    Attributes:
        whole: cost of the weight as it is.
        ways: how it may be factored.
    """

    whole: float
    ways: tuple[Option, ...]


def stored(shape: Sequence[int], layouts: Sequence[Layout]) -> Options:
    """Return options whose cost is the number of weights: n·m whole, n + m for each rank."""
    return Options(float(math.prod(shape)), tuple(Option(la, float(sum(la.sides(shape)))) for la in layouts))


def choices_of(shape: Sequence[int], options: Options, round_to: int) -> tuple[Array, list[int], list[int]]:
    """Return cost, way and rank of each choice; the last is the whole weight (way −1)."""
    costs, ways, ranks = [], [], []
    for way, option in enumerate(options.ways):
        most = min(most_useful(shape, option.layout), *option.layout.sides(shape))
        for rank in ranks_up_to(most, round_to):
            if option.cost * rank <= WORTH * options.whole:
                costs.append(option.cost * float(rank))
                ways.append(way)
                ranks.append(int(rank))
    return np.array([*costs, options.whole]), [*ways, -1], [*ranks, 0]


Error = Callable[[Array, Option], Array]
"""Returns the error of every rank from 0 on, from the squared errors of one way to factor a weight."""


def comparable(options: Sequence[Options]) -> Error:
    """Return what the errors of several weights are compared by, one measure for all.

    Squared errors will not do: scale one layer, and the next by the inverse, and a network of ReLUs stays the
    same. It is the damage they do where all options tell it, and otherwise −log of the share of ‖w‖² that is
    kept: its sum is least where the product of those shares, one layer behind the other, is largest. Neither
    changes with the scale of a layer.
    """
    told = all(way.damage is not None for found in options for way in found.ways)
    return _damage if told else _lost_energy


def squared(left_over: Array, option: Option) -> Array:
    """Return the squared errors themselves."""
    return left_over


def _damage(left_over: Array, option: Option) -> Array:
    """Return the damage over the share of ‖w‖² that is kept: first order knows of no layer that is empty."""
    assert option.damage is not None
    return np.asarray(left_over * np.array(option.damage) / np.maximum(1 - _lost(left_over), 1e-12))


def _lost_energy(left_over: Array, option: Option) -> Array:
    """Return −log of the share of ‖w‖² that a rank keeps."""
    return np.asarray(-np.log(np.maximum(1 - _lost(left_over), 1e-12)))


def _lost(left_over: Array) -> Array:
    """Return the share of ‖w‖² that every rank leaves out."""
    whole = float(left_over[0])
    return left_over / whole if whole > 0 else np.zeros_like(left_over)
