"""The ledger of labels: which are tied to which, which cannot be cut and why, which are mixed."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxcompress.core.encoding import Array


class Kind(enum.Enum):
    """Why labels are frozen, as far as it matters to surgery."""

    INPUT = "input"
    """They read the model's input: what makes them is not a layer, but they can be cut in front of it."""

    FIXED = "fixed"


@dataclass(frozen=True)
class Frozen:
    """Labels that cannot be cut, with the reason in words."""

    labels: Array
    why: str
    kind: Kind


@dataclass
class Ledger:
    """Labels are handed out as consecutive integers; ties are collected and resolved once, at the end."""

    count: int = 0
    frozen: list[Frozen] = field(default_factory=list)
    mixed: list[Array] = field(default_factory=list)
    _ties: list[tuple[Array, Array]] = field(default_factory=list)
    _stiff: Array = field(default_factory=lambda: np.zeros(0, bool))

    def fresh(self, count: int) -> Array:
        """Return ``count`` labels nothing is tied to yet."""
        first = self.count
        self.count += count
        return np.arange(first, self.count, dtype=np.int64)

    def tie(self, first: Array, second: Array) -> None:
        """Tie labels position by position."""
        if first is not second:
            self._ties.append(tuple(np.broadcast_arrays(first.ravel(), second.ravel())))  # type: ignore[arg-type]

    def freeze(self, labels: Array, why: str, kind: Kind = Kind.FIXED) -> None:
        """Say that labels cannot be cut."""
        if labels.size:
            self.frozen.append(Frozen(labels.ravel(), why, kind))
            if len(self._stiff) < self.count:  # twice as many, so that it is seldom copied
                self._stiff = np.concatenate([self._stiff, np.zeros(self.count, bool)])
            self._stiff[labels] = True

    def is_frozen(self, labels: Array) -> bool:
        """Tell whether one of these very labels was frozen; what they are tied to is not looked at."""
        return bool(self._stiff[labels[labels < len(self._stiff)]].any())

    def mix(self, labels: Array) -> None:
        """Mark labels that a normalisation looks at together."""
        self.mixed.append(labels.ravel())

    def roots(self) -> Array:
        """Return for each label the number of its connected component."""
        if not self.count:
            return np.zeros(0, np.int64)
        first = np.concatenate([a for a, _ in self._ties] or [np.zeros(0, np.int64)])
        second = np.concatenate([b for _, b in self._ties] or [np.zeros(0, np.int64)])
        edges = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(self.count, self.count))
        _, found = connected_components(edges, directed=False)
        return np.asarray(found, np.int64)
