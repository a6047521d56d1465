"""Ranges of activations, found call by call in memory that does not grow with the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import onnx

from onnxcompress.core.encoding import Array
from onnxcompress.core.task import Feeds
from onnxcompress.engine import runtime
from onnxcompress.engine.proto_edits import tapped

Range = tuple[float, float]
How = Literal["minmax", "mse"]

BINS = 2048
"""Bins of the histograms that clipped ranges are chosen from."""

SAMPLED = 1 << 16
"""Elements of an activation that one call adds to its histogram, one drawn from each of so many equal parts:
steps of one length would meet the same channels again and again."""

STEPS = 48
"""Clipped ranges that are tried on each side."""


class Recorder:
    """Runs a float graph with all its activations handed out, and keeps what they looked like.

    Args:
        proto: the prepared graph.
        threads: onnxruntime's threads inside an operator.
    """

    def __init__(self, proto: onnx.ModelProto, *, threads: int = 1) -> None:
        every = tapped(proto, (name for node in proto.graph.node for name in node.output))
        # Optimised away, an activation could not be handed out; layouts are changed, values are not.
        self._session = runtime.open_session(every.SerializeToString(), threads=threads, optimization="basic")
        self._inputs = [i.name for i in self._session.inputs]
        self.ranges: dict[str, Range] = {}
        self._unbounded: set[str] = set()

    @property
    def boundless(self) -> frozenset[str]:
        """The activations that have no range: they were infinite, or no numbers, in every call so far."""
        return frozenset(self._unbounded - set(self.ranges))

    def minmax(self, calls: Iterable[Feeds]) -> dict[str, Range]:
        """Return the least and greatest value of every floating-point activation, 0 included.

        A call in which an activation is infinite somewhere does not count for it.
        """
        for values in self._run(calls):
            for name, array in values.items():
                low, high = self.ranges.get(name, (0.0, 0.0))
                self.ranges[name] = (min(low, float(array.min())), max(high, float(array.max())))
        return dict(self.ranges)

    def least_error(self, calls: Iterable[Feeds]) -> dict[str, Range]:
        """Return ranges that lose least (mean square) by rounding and clipping together.

        ``minmax`` must have run on the same inputs: histograms lie between what it found.
        """
        counts: dict[str, Array] = {}
        generator = np.random.default_rng(0)
        for values in self._run(calls):
            for name, array in values.items():
                low, high = self.ranges[name]
                if not high > low:
                    continue
                # In float32 the range of numbers of both signs near its end would overflow.
                wide = sampled(array, generator).astype(np.float64)
                found, _ = np.histogram(wide, bins=BINS, range=(low, high))
                counts[name] = counts.get(name, np.zeros(BINS)) + found
        return self.ranges | {name: clipped(found, self.ranges[name]) for name, found in counts.items()}

    def _run(self, calls: Iterable[Feeds]) -> Iterable[Mapping[str, Array]]:
        for feed in calls:
            given = {name: feed[name] for name in self._inputs}
            values = {**given, **self._session.run(given)}
            numbers = {
                name: array
                for name, array in values.items()
                if isinstance(array, np.ndarray) and array.dtype == np.float32 and array.size
            }
            bounded = {name: array for name, array in numbers.items() if np.isfinite(array).all()}
            self._unbounded |= set(numbers) - set(bounded)
            yield bounded


def sampled(array: Array, generator: np.random.Generator) -> Array:
    """Return ``SAMPLED`` elements of an array from all over it, flattened; all where there are no more."""
    if array.size <= SAMPLED:
        return array.reshape(-1)
    places = (np.arange(SAMPLED) + generator.random(SAMPLED)) * (array.size / SAMPLED)
    return array.reshape(-1)[np.minimum(places.astype(np.int64), array.size - 1)]


def clipped(counts: Array, full: Range, levels: int = 256) -> Range:
    """Return the range inside ``full`` with the least mean square error of rounding to ``levels`` values.

    A value inside is rounded to the nearest level (error Δ²/12 for a step Δ), one outside moves to the end of
    the range. Each end is moved in turn while the other stays; 0 stays inside, since it must be a level.

    Args:
        counts: histogram over ``full``, equal bins.
        full: least and greatest value.
        levels: number of levels.

    >>> clipped(np.ones(2048), (0.0, 1.0))  # nothing to gain from clipping what is spread evenly
    (0.0, 1.0)
    """
    edges = np.linspace(full[0], full[1], len(counts) + 1)
    centres = 0.5 * (edges[:-1] + edges[1:])
    total = max(float(counts.sum()), 1.0)

    def loss(low: float, high: float) -> float:
        step = (high - low) / (levels - 1)
        beyond = np.maximum(centres - high, 0) + np.maximum(low - centres, 0)
        inside = float(counts[(centres >= low) & (centres <= high)].sum()) / total
        return inside * step * step / 12 + float((counts * beyond * beyond).sum()) / total

    low, high = full
    for _ in range(2):
        highs = np.linspace(full[1], max(0.0, full[1] * 0.02), STEPS) if full[1] > 0 else np.zeros(1)
        high = float(min(highs, key=lambda h: loss(low, float(h))))
        lows = np.linspace(full[0], min(0.0, full[0] * 0.02), STEPS) if full[0] < 0 else np.zeros(1)
        low = float(min(lows, key=lambda v: loss(float(v), high)))
    return (low, high) if high > low else full
