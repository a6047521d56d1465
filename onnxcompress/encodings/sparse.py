"""Sparse: most weights are zero; the others are stored with where they are.

Two forms, of which the one with fewer bytes is taken (the mask below about 87 % zeros, the gaps above):

* *mask*: one bit a weight says whether it is zero. The running sum of the bits numbers the others, and a
  look-up of that number, 0 where the bit is, in the table (0, v₁, v₂ …) yields the weights.
* *gaps*: one byte for each non-zero weight, its distance from the one before. Their running sum is where
  the values are scattered to in zeros. A distance of more than 255 takes further bytes, each setting a zero.

Both are decoded while the model is loaded: the file is smaller, the model is not faster.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding, Numbers, Site
from onnxcompress.csteps.pruning import largest
from onnxcompress.csteps.thresholds import ball_level, hard_level, shrunk, soft_level
from onnxcompress.encodings._base import ENCODINGS, PROJECTIONS, Previous, Projection
from onnxcompress.encodings._limits import check_limit, check_positive, kept
from onnxcompress.encodings._places import (
    PlacedEncoding,
    bytes_of_mask,
    distances,
    emit_arrivals,
    emit_numbers,
    emit_scattered,
    fillers,
    places_information_bits,
)


@ENCODINGS.register("sparse")
@dataclass(frozen=True, eq=False)
class Sparse(PlacedEncoding):
    """The non-zero weights and where they are.

    Attributes:
        places: int64, ascending: positions of the non-zero weights in the flattened weight.
        values: the weights there, in the weight's storage type.
        shape: of the weight.
    """

    kind: ClassVar[str] = "sparse"
    places: Array
    values: Array
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", self.values.dtype)

    def decode(self) -> Array:
        """Put the values into zeros."""
        return self.spread(self.values, 0)

    def information_bits(self) -> float:
        """log₂ of the number of ways to choose the places, and the values."""
        return places_information_bits(self.size, len(self.places)) + 8.0 * self.values.nbytes

    def take(self, axis: int, keep: Array) -> Sparse:
        """Keep some slices along one axis."""
        return sparse(np.take(self.decode(), keep, axis=axis), np.take(self.mask(), keep, axis=axis))

    def numbers(self) -> tuple[Numbers, ...]:
        """Return the weights that are not zero."""
        return (Numbers(self.values, self.spread(np.arange(len(self.places), dtype=np.int64), -1)),)

    def with_numbers(self, values: Sequence[Array]) -> Sparse:
        """Return other weights in the same places."""
        return Sparse(self.places, values[0], self.shape)

    def mask_bytes(self) -> int:
        """Return the bytes of the mask and the table of values."""
        return bytes_of_mask(self.size) + (len(self.values) + 1) * self.dtype.itemsize

    def gap_bytes(self) -> int:
        """Return the bytes of the distances and the values, those of fillers among them."""
        return (len(self.places) + int(fillers(self.places).sum())) * (1 + self.dtype.itemsize)

    def emit_mask(self, site: Site) -> ir.Value:
        """Emit the running sum of the bits and the look-up."""
        table = np.concatenate([np.zeros(1, self.dtype), self.values])
        numbers = emit_numbers(site, self.places, self.size)
        return site.node("Gather", [site.tensor("k", table), numbers])

    def emit_gaps(self, site: Site) -> ir.Value:
        """Emit the running sum of the distances and the scattering."""
        steps, ends = distances(self.places)
        values = np.zeros(len(steps), self.dtype)
        values[ends] = self.values
        _, places = emit_arrivals(site, steps)
        return emit_scattered(site, self.size, self.dtype, places, site.tensor("k", values))


def sparse(weight: Array, stay: Array | None = None) -> Sparse:
    """Return the encoding of a weight whose elements outside ``stay`` (bool) are zero; None: as they are."""
    flat = np.ravel(weight)
    found = flat != 0 if stay is None else (flat != 0) & np.ravel(stay)
    places = np.flatnonzero(found)
    if not len(places):  # an empty tensor is no constant to decode from
        return Sparse(np.zeros(1, np.int64), np.zeros(1, flat.dtype), tuple(weight.shape))
    return Sparse(places, flat[places], tuple(weight.shape))


# projections -----------------------------------------------------------------------------------------------


@PROJECTIONS.register("prune")
@dataclass(frozen=True)
class Pruning(Projection):
    """ℓ0 constraint: of all weights given, the largest stay (methods.md section 2, "ℓ0 constraint κ").

    Attributes:
        keep: share of the weights that stay, over 0, at most 1; of several weights jointly.
        count: instead, how many of them stay.

    Raises:
        UsageError: neither or both are given, or one is out of range.
    """

    keep: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        check_limit(self.keep, self.count)

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Return the weights with all but the ``count``, or ⌊keep · n⌋ (at least one), largest set to 0."""
        stay = largest(weights, kept(self.keep, self.count, sum(w.size for w in weights)))
        return [sparse(w, s) for w, s in zip(weights, stay, strict=True)]


@PROJECTIONS.register("l1")
@dataclass(frozen=True)
class L1Ball(Projection):
    """ℓ1 constraint: Σ|θ| of all weights given is at most ``radius``; most of them become zero.

    Attributes:
        radius: κ.

    Raises:
        UsageError: the radius is not positive.
    """

    radius: float

    def __post_init__(self) -> None:
        check_positive("radius", self.radius)

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Return the Euclidean projection on the ball."""
        level = ball_level(weights, self.radius)
        return [sparse(shrunk(w, level) if level > 0 else w) for w in weights]


@dataclass(frozen=True)
class _Penalty(Projection):
    """α·C(θ) as a penalty on all weights given, each by itself.

    Attributes:
        alpha: α, in units of the loss for one weight (ℓ0) or for a magnitude of 1 (ℓ1).

    Raises:
        UsageError: α is not positive.
    """

    alpha: float

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    @property
    def penalised(self) -> bool:
        """It is a penalty."""
        return True

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Return the weights with what is worth less than it costs at zero."""
        return [sparse(w) if mu is None else self.cheaper(w, mu) for w in weights]

    @abstractmethod
    def cheaper(self, weight: Array, mu: float) -> Sparse:
        """Return ``argmin_θ ‖w − θ‖² μ/2 + α·C(θ)``."""


@PROJECTIONS.register("l0-penalty")
@dataclass(frozen=True)
class L0Penalty(_Penalty):
    """ℓ0 penalty: every weight that is not zero costs α (methods.md section 2, "ℓ0 penalty α")."""

    def cheaper(self, weight: Array, mu: float) -> Sparse:
        """Return the weight, where |w| is up to √(2α/μ) zero."""
        return sparse(weight, np.abs(weight.astype(np.float64)) > hard_level(self.alpha, mu))

    def free(self, encoding: Encoding) -> Array:
        """Return the places of the weights that stay."""
        assert isinstance(encoding, Sparse)
        return encoding.mask()

    def cost(self, encodings: Sequence[Encoding]) -> float:
        """Return α times the number of weights that are not zero."""
        return self.alpha * sum(int(np.count_nonzero(e.decode())) for e in encodings)


@PROJECTIONS.register("l1-penalty")
@dataclass(frozen=True)
class L1Penalty(_Penalty):
    """ℓ1 penalty: every weight costs α times its magnitude (methods.md section 2, "ℓ1 penalty α")."""

    def cheaper(self, weight: Array, mu: float) -> Sparse:
        """Return the weight shrunk by α/μ, zero where it was smaller."""
        return sparse(shrunk(weight, soft_level(self.alpha, mu)))

    def cost(self, encodings: Sequence[Encoding]) -> float:
        """Return α Σ|θ|."""
        return self.alpha * sum(float(np.abs(e.decode().astype(np.float64)).sum()) for e in encodings)
