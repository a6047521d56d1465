"""Channels that share an axis with something of another length: pixels, examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.couplings._base import Labels


@dataclass(frozen=True)
class Repetition:
    """Every channel of an axis as often as every other one: 0 0 1 1 0 0 1 1 is twice two channels twice.

    Attributes:
        outer: how often all channels follow each other.
        count: number of channels.
        inner: how many positions of one channel follow each other.
    """

    outer: int
    count: int
    inner: int

    def per_channel(self, values: Array) -> Array:
        """Return the values of one position of each channel, of values that are the same for all of them."""
        return values[: self.count * self.inner : self.inner]


def repetition(labels: Labels) -> Repetition | None:
    """Return how labels repeat along an axis; None where they do not, or not as often.

    >>> repetition(np.array([4, 4, 7, 7])), repetition(np.array([4, 7, 4, 7]))
    (Repetition(outer=1, count=2, inner=2), Repetition(outer=2, count=2, inner=1))
    >>> repetition(np.array([4, 4, 7])), repetition(np.array([4, 7, 7, 4]))
    (None, None)
    """
    count = len(set(labels.tolist()))
    changes = np.flatnonzero(labels != labels[:1])
    inner = int(changes[0]) if len(changes) else len(labels)
    if count == 0 or len(labels) % (count * inner):
        return None
    found = Repetition(len(labels) // (count * inner), count, inner)
    regular = np.tile(np.repeat(found.per_channel(labels), inner), found.outer)
    return found if (labels == regular).all() else None
