"""How far a change moves the outputs, example by example, with an interval that says how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.core.task import Feeds

Computes = Callable[[Feeds], Mapping[str, Any]]
"""Computes a model's outputs by name."""

DRAWS = 2000
"""Bootstrap resamples of the examples."""


@dataclass(frozen=True)
class Damage:
    """Squared changes and squared references, one row an example and one column a floating-point output.

    Attributes:
        outputs: names of the columns.
        changes: ‖a − b‖₂² (examples, outputs).
        references: ‖a‖₂² (examples, outputs).
    """

    outputs: tuple[str, ...]
    changes: Array
    references: Array

    def relative_l2(self, rows: Array | None = None) -> float:
        """Return ‖a − b‖₂ / ‖a‖₂ over all examples (or these rows) of the output where it is largest."""
        change, reference = self.changes, self.references
        if rows is not None:
            change, reference = change[rows], reference[rows]
        return float(_worst(change.sum(axis=-2), reference.sum(axis=-2)))

    def interval(self, rng: np.random.Generator, *, draws: int = DRAWS) -> tuple[float, float]:
        """Return the 95 % percentile bootstrap interval of ``relative_l2`` over examples.

        A resample is infinitely far where an example is that it holds.

        Source: Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 13.
        """
        examples = len(self.changes)
        weights = rng.multinomial(examples, np.full(examples, 1 / examples), size=draws).astype(np.float64)
        broken = np.isinf(self.changes)
        changes = weights @ np.where(broken, 0.0, self.changes)
        found = _worst(np.where(weights @ broken > 0, np.inf, changes), weights @ self.references)
        # Between two infinities nothing can be interpolated.
        method: Literal["linear", "nearest"] = "nearest" if np.isinf(found).any() else "linear"
        low, high = np.quantile(found, (0.025, 0.975), method=method)
        return float(low), float(high)


def _worst(change: Array, reference: Array) -> Array:
    """Return the largest relative change over outputs; where the reference is zero, the change itself."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(reference > 0, change / np.where(reference > 0, reference, 1.0), change)
    return np.asarray(np.sqrt(relative.max(axis=-1)))


class Yardstick:
    """The outputs of a model on some inputs, to measure changed models against.

    Args:
        reference: computes the original's outputs.
        calls: inputs, one example (or fixed batch) a call.
        without: outputs that are not measured by.
    """

    def __init__(self, reference: Computes, calls: Sequence[Feeds], *, without: Collection[str] = ()) -> None:
        assert calls
        self.calls = tuple(calls)
        found = [_floats(reference(feed)) for feed in calls]
        self.expected = [{n: v for n, v in outputs.items() if n not in without} for outputs in found]
        self.outputs = tuple(self.expected[0])
        if not self.outputs:
            raise UnsupportedError(
                "there is nothing to measure the damage by", why="no output of the model holds real numbers"
            )

    def measure(self, candidate: Computes, *, most: int | None = None) -> Damage:
        """Return the damage of a changed model; a number that is none counts as infinitely far.

        Outputs may have another length (the boxes that a detector keeps): what one of both lacks counts as
        zeros.

        Args:
            candidate: computes its outputs.
            most: use only so many of the examples.
        """
        count = len(self.calls) if most is None else min(most, len(self.calls))
        changes = np.zeros((count, len(self.outputs)))
        references = np.zeros_like(changes)
        for row in range(count):
            found = _floats(candidate(self.calls[row]))
            for column, name in enumerate(self.outputs):
                one, other = self.expected[row][name], found.get(name)
                changes[row, column], references[row, column] = _squares(one, other)
        return Damage(self.outputs, changes, references)


def _floats(outputs: Mapping[str, Any]) -> dict[str, Array]:
    return {
        name: np.asarray(value, np.float64)
        for name, value in outputs.items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f"
    }


def _filled(array: Array, shape: tuple[int, ...]) -> Array:
    if array.shape == shape:  # numpy.pad knows no single numbers
        return array
    return np.pad(array, [(0, long - short) for long, short in zip(shape, array.shape, strict=True)])


def _squares(one: Array, other: Array | None) -> tuple[float, float]:
    if other is not None and other.ndim == one.ndim:
        longest = tuple(map(max, one.shape, other.shape))
        one, other = _filled(one, longest), _filled(other, longest)
    finite = np.isfinite(one)
    reference = float((one[finite] ** 2).sum())
    if other is None or other.shape != one.shape or not np.isfinite(other[finite]).all():
        return math.inf, reference
    return float(((one[finite] - other[finite]) ** 2).sum()), reference
