"""Squares of changes along channels, summed over examples as they are, and with every example alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.engine.channels import site_key
from onnxcompress.engine.importance._base import by_channel


class Squares:
    """Squares of the changes along each channel of some groups.

    Attributes:
        sums: group name -> their sums over examples.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._count = 0
        self._alike = {g.name: np.zeros(g.size) for g in groups}
        self.sums = {g.name: np.zeros(g.size) for g in groups}

    def add(self, products: Mapping[str, Array], fed: int) -> None:
        """Add examples.

        Args:
            products: site key -> Σ a·g, (examples, positions) or (1, positions).
            fed: examples.
        """
        self._count += fed
        found: dict[str, Array] = {}
        for group in self._groups:
            parts = [
                by_channel(products[site_key(s)], s.channel_of, group.size)
                for s in group.sites
                if site_key(s) in products
            ]
            if parts:
                found[group.name] = np.square(sum(parts))
        for name, squares in found.items():
            self.sums[name] += squares.sum(axis=0)
        for name, squares in _alike(found, fed).items():
            self._alike[name] += squares.sum(axis=0)

    def means(self) -> dict[str, Array]:
        """Return the means over examples, of each of which all squares together are 1, or 0 if all are."""
        return {name: squares / max(1, self._count) for name, squares in self._alike.items()}


def roots(groups: Sequence[Group], parts: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """Return group name -> the root of the sum of some squares along each channel."""
    held = list(parts)
    return {g.name: np.sqrt(sum((part[g.name] for part in held), np.zeros(g.size))) for g in groups}


def _alike(squares: Mapping[str, Array], fed: int) -> dict[str, Array]:
    """Return squares, (examples, channels) each, that sum to 1 over all channels for every example.

    Where some group cannot tell the examples apart they sum to their number instead, all together.
    """
    if not squares:
        return {}
    apart = {len(s) for s in squares.values()} == {fed}
    rows = squares if apart else {name: s.sum(axis=0, keepdims=True) for name, s in squares.items()}
    wholes = sum(s.sum(axis=1, keepdims=True) for s in rows.values())
    weights = np.divide(1 if apart else fed, wholes, out=np.zeros_like(wholes), where=wholes > 0)
    return {name: s * weights for name, s in rows.items()}
