"""Additive: a weight is the sum of several compressed ones (a small codebook, and a few corrections).

The sum is computed while the model is loaded: the file is smaller, the model is not faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding, Numbers, Site
from onnxcompress.core.errors import UsageError
from onnxcompress.encodings import _nodes
from onnxcompress.encodings._base import ENCODINGS, Previous, Projection

SWEEPS = 10
"""Rounds over the parts in one C step (methods.md section 2, "additive")."""

_ENOUGH = 1e-6
"""Relative improvement of a round below which there is no other."""


@ENCODINGS.register("additive")
@dataclass(frozen=True, eq=False)
class Additive(Encoding):
    """The parts, added in their order: in float32, where the weight's type is narrower.

    Attributes:
        parts: at least two, of the same shape and type.
    """

    kind: ClassVar[str] = "additive"
    parts: tuple[Encoding, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.parts[0].shape)
        object.__setattr__(self, "dtype", self.parts[0].dtype)
        object.__setattr__(self, "least_opset", max(7, *(p.least_opset for p in self.parts)))

    def decode(self) -> Array:
        """Add the parts."""
        wide = np.float32 if self.dtype.itemsize < 4 else self.dtype
        total: Array = reduce(np.add, (p.decode().astype(wide) for p in self.parts))
        return total.astype(self.dtype)

    def stored_bits(self) -> int:
        """Bits of all parts."""
        return sum(p.stored_bits() for p in self.parts)

    def information_bits(self) -> float:
        """Bits of all parts."""
        return sum(p.information_bits() for p in self.parts)

    def take(self, axis: int, keep: Array) -> Additive:
        """Keep some slices of every part."""
        return Additive(tuple(p.take(axis, keep) for p in self.parts))

    def numbers(self) -> tuple[Numbers, ...]:
        """Return those of all parts; none where a part knows none, which would be left out of the sum."""
        every = [p.numbers() for p in self.parts]
        return tuple(n for numbers in every for n in numbers) if all(every) else ()

    def with_numbers(self, values: Sequence[Array]) -> Additive:
        """Return the sum with other numbers in its parts."""
        if not self.numbers():
            assert not values, "a part of the sum has no numbers of its own"
            return self
        left, parts = list(values), []
        for part in self.parts:
            count = len(part.numbers())
            parts.append(part.with_numbers(left[:count]))
            del left[:count]
        return Additive(tuple(parts))

    def emit(self, site: Site) -> ir.Value:
        """Emit the parts and their sum."""
        values = [p.emit(site) for p in self.parts]
        if self.dtype.itemsize >= 4:
            return reduce(lambda a, b: site.node("Add", [a, b]), values)
        # onnxruntime adds no 16-bit numbers on every CPU, and folds no such sum
        wide = [_cast(site, value, ir.DataType.FLOAT) for value in values]
        total = reduce(lambda a, b: site.node("Add", [a, b]), wide)
        return _cast(site, total, ir.DataType.from_numpy(self.dtype))


def _cast(site: Site, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    return site.node("Cast", [value], {"to": _nodes.cast_type(site, dtype)})


@dataclass(frozen=True)
class Sum(Projection):
    """Δ₁(Θ₁) + … + Δₖ(Θₖ): each part in turn compresses what the others leave, in several rounds.

    Where a part may set weights to any value (pruning, those that stay) the others need not fit, and do not
    look. Rounds never make the result worse. Without a previous result the parts are also started in the
    opposite order, and the better result counts.

    Attributes:
        parts: at least two.
        sweeps: rounds.

    Raises:
        UsageError: there are fewer parts.
    """

    parts: tuple[Projection, ...]
    sweeps: int = SWEEPS

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise UsageError("a sum has at least two parts", why=f"found {len(self.parts)}")

    @property
    def penalised(self) -> bool:
        """Whether a part is."""
        return any(p.penalised for p in self.parts)

    def cost(self, encodings: Sequence[Encoding]) -> float:
        """Return the cost of all parts."""
        return sum(kind.cost([_part(e, k) for e in encodings]) for k, kind in enumerate(self.parts))

    def of(self, positions: Sequence[int]) -> Sum:
        """Return the sum for some of the weights."""
        return Sum(tuple(p.of(positions) for p in self.parts), self.sweeps)

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Return sums close to the weights: a stationary point of taking parts in turn."""
        count = len(self.parts)
        if previous is not None:
            start: list[list[Encoding] | None] = [[_part(e, k) for e in previous] for k in range(count)]
            return self._rounds(weights, mu, start, range(count))[0]
        none: list[list[Encoding] | None] = [None] * count
        orders = [range(count), range(count - 1, -1, -1)]
        return min((self._rounds(weights, mu, list(none), order) for order in orders), key=lambda r: r[1])[0]

    def _rounds(
        self, weights: Sequence[Array], mu: float | None, found: list[list[Encoding] | None], order: range
    ) -> tuple[list[Encoding], float]:
        """Go round until nothing gets better; return the best sums, and what a C step makes small."""
        best: list[Encoding] = []
        least = np.inf
        if all(found):
            best = _sums(found)
            least = self._objective(weights, best, mu)
        for _ in range(self.sweeps):
            for k in order:
                found[k] = self._compress(k, weights, mu, found)
            # What may have any value is set last: it makes up for what the others changed.
            for k in order:
                if k != order[-1] and not self._sees_all(k, found):
                    found[k] = self._compress(k, weights, mu, found)
            sums = _sums(found)
            objective = self._objective(weights, sums, mu)
            done = not objective < least * (1 - _ENOUGH)
            if objective < least:
                best, least = sums, objective
            if done:
                break
        return best, least

    def _compress(
        self, k: int, weights: Sequence[Array], mu: float | None, found: list[list[Encoding] | None]
    ) -> list[Encoding]:
        """Return the best of one part for what the others leave."""
        rest, hidden = list(weights), [np.zeros(w.shape, bool) for w in weights]
        for other, encodings in enumerate(found):
            if other == k or encodings is None:
                continue
            for i, encoding in enumerate(encodings):
                rest[i] = _less(rest[i], encoding.decode())
                free = self.parts[other].free(encoding)
                if free is not None:
                    hidden[i] |= free
        if any(h.any() for h in hidden):
            return self.parts[k].project_seen(rest, hidden, mu=mu, previous=found[k])
        return self.parts[k].project(rest, mu=mu, previous=found[k])

    def _sees_all(self, k: int, found: list[list[Encoding] | None]) -> bool:
        """Whether a part has to fit all weights: none of them may have any value in it."""
        return all(self.parts[k].free(e) is None for e in found[k] or ())

    def _objective(self, weights: Sequence[Array], sums: Sequence[Encoding], mu: float | None) -> float:
        pairs = zip(weights, sums, strict=True)
        distance = sum(float(np.square(_less(w, e.decode()).astype(np.float64)).sum()) for w, e in pairs)
        return distance if mu is None else distance + 2 / mu * self.cost(sums)


def _part(encoding: Encoding, k: int) -> Encoding:
    assert isinstance(encoding, Additive)
    return encoding.parts[k]


def _sums(found: Sequence[list[Encoding] | None]) -> list[Encoding]:
    return [Additive(parts) for parts in zip(*(f or () for f in found), strict=True)]


def _less(weight: Array, other: Array) -> Array:
    """Return the difference in the weight's type."""
    wide = np.float32 if weight.dtype.itemsize < 4 else weight.dtype
    rest: Array = (weight.astype(wide) - other.astype(wide)).astype(weight.dtype)
    return rest
