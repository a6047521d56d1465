"""Low rank: a weight is the product of two thin matrices.

The axes of the weight are dealt to the rows and the columns of a matrix (its *layout*); the weight is that
matrix's factors, multiplied. Where the nodes that use a weight can work with the factors themselves they do,
as two layers of less work (``surgery.factor``); elsewhere the product is computed while the model is loaded.

So that every runtime computes the same product to the last bit, it is computed in float64 from factors whose
entries lie on a grid coarse enough for all sums to be exact, in whatever order they are made: about 26 bits
below the longest row of the left, and the longest column of the right factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding, Site
from onnxcompress.core.errors import UsageError
from onnxcompress.csteps.budget import Choices, at_price, within
from onnxcompress.csteps.lowrank import Decomposition, decompose
from onnxcompress.encodings import _nodes
from onnxcompress.encodings._base import ENCODINGS, PROJECTIONS, Previous, Projection
from onnxcompress.encodings._layout import Layout, Scheme, layouts_of
from onnxcompress.encodings._ranks import Error, Options, choices_of, comparable, squared, stored

_EXACT_BITS = 52
"""Sums of integers below 2 to this power are exact in float64; one bit is left for what rounding adds."""


@ENCODINGS.register("low-rank")
@dataclass(frozen=True, eq=False)
class LowRank(Encoding):
    """The two factors. Made by :func:`low_rank`, which puts entries on the grid.

    Attributes:
        left: (n, r), in the weight's storage type.
        right: (r, m), of the same type.
        shape: of the weight.
        layout: how the weight is an (n, m) matrix.
    """

    kind: ClassVar[str] = "low-rank"
    left: Array
    right: Array
    shape: tuple[int, ...]
    layout: Layout

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", self.left.dtype)

    @property
    def rank(self) -> int:
        """The number r."""
        return int(self.left.shape[1])

    def decode(self) -> Array:
        """Multiply the factors."""
        product = self.left.astype(np.float64) @ self.right.astype(np.float64)
        for dtype in self._rounding:
            product = product.astype(dtype)
        return self.layout.weight(product, self.shape)

    @property
    def _rounding(self) -> tuple[np.dtype[np.generic], ...]:
        """The types the product goes through: half precision by way of float32, as runtimes do."""
        half = self.dtype.itemsize < np.dtype(np.float32).itemsize
        return (np.dtype(np.float32), self.dtype) if half else (self.dtype,)

    def stored_bits(self) -> int:
        """Bits of the factors."""
        return 8 * int(self.left.nbytes + self.right.nbytes)

    def information_bits(self) -> float:
        """Bits of the factors."""
        return float(self.stored_bits())

    def take(self, axis: int, keep: Array) -> LowRank:
        """Keep some slices along one axis: rows of one factor, or columns of the other, go."""
        shape = tuple(len(keep) if a == axis else d for a, d in enumerate(self.shape))
        left, right = self.left, self.right
        if axis in self.layout.rows:
            dealt = left.reshape(*(self.shape[a] for a in self.layout.rows), self.rank)
            left = np.take(dealt, keep, axis=self.layout.rows.index(axis)).reshape(-1, self.rank)
        else:
            dealt = right.reshape(self.rank, *(self.shape[a] for a in self.layout.columns))
            right = np.take(dealt, keep, axis=1 + self.layout.columns.index(axis)).reshape(self.rank, -1)
        return LowRank(left, right, shape, self.layout)

    def emit(self, site: Site) -> ir.Value:
        """Emit the product, in float64."""
        factors = [site.tensor("q", self.left), site.tensor("k", self.right)]
        if self.dtype != np.float64:
            factors = [_cast(site, f, np.dtype(np.float64)) for f in factors]
        value = site.node("MatMul", factors)
        for dtype in self._rounding if self.dtype != np.float64 else ():
            value = _cast(site, value, dtype)
        dealt = [self.shape[a] for a in (*self.layout.rows, *self.layout.columns)]
        if dealt != [*self.layout.sides(self.shape)]:
            value = _nodes.reshape(site, value, dealt)
        if self.layout.order != tuple(range(len(self.shape))):
            value = site.node("Transpose", [value], {"perm": list(self.layout.order)})
        return value


def _cast(site: Site, value: ir.Value, dtype: np.dtype[np.generic]) -> ir.Value:
    return site.node("Cast", [value], {"to": _nodes.cast_type(site, ir.DataType.from_numpy(dtype))})


def low_rank(
    left: Array, right: Array, shape: Sequence[int], layout: Layout, dtype: np.dtype[np.generic]
) -> LowRank:
    """Return the encoding of ``left @ right`` in a storage type; entries go to the nearest grid points."""
    rows, columns = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=0)
    return LowRank(
        _gridded(left, float(rows.max(initial=0.0)), dtype),
        _gridded(right, float(columns.max(initial=0.0)), dtype),
        tuple(int(d) for d in shape),
        layout,
    )


def _gridded(factor: Array, longest: float, dtype: np.dtype[np.generic]) -> Array:
    """Round to multiples of the power of two for which ``longest`` is at most 2^26 of them.

    Any part of a sum Σ aᵢ bᵢ is at most ‖a‖ ‖b‖ (Cauchy–Schwarz): 2^52 products of grid units. What is
    rounded to the storage type first stays in it: large entries are on the grid already, and small ones have
    fewer digits afterwards.
    """
    rounded = factor.astype(dtype)
    if not longest > 0:
        return rounded
    exponent = math.frexp(longest)[1] - _EXACT_BITS // 2
    wide = np.rint(np.ldexp(rounded.astype(np.float64), -exponent))
    return np.ldexp(wide, exponent).astype(dtype)


@PROJECTIONS.register("low-rank")
@dataclass(frozen=True)
class FixedRank(Projection):
    """The closest weights of a given rank (methods.md section 2, "low rank r"): the truncated SVD.

    Attributes:
        rank: r, at least 1.
        scheme: of kernels; auto: the one of both that is closer.
        layouts: instead of the scheme's.

    Raises:
        UsageError: the rank is less than 1.
    """

    joint: ClassVar[bool] = False
    rank: int
    scheme: Scheme = "auto"
    layouts: tuple[Layout, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError("rank must be at least 1", why=f"found {self.rank}")

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Return the closest products for each weight on its own."""
        return [self._one(w) for w in weights]

    def _one(self, weight: Array) -> LowRank:
        layouts = self.layouts or layouts_of(weight.ndim, self.scheme)
        found = [decompose(layout.matrix(weight)) for layout in layouts]
        errors = [d.left_over()[min(self.rank, len(d.values))] for d in found]
        best = int(np.argmin(errors))
        return low_rank(*found[best].truncated(self.rank), weight.shape, layouts[best], weight.dtype)


@PROJECTIONS.register("rank")
@dataclass(frozen=True)
class LearnedRank(Projection):
    """The ranks of several weights chosen together (methods.md section 2, "rank selection").

    The penalty form minimises ``α Σ C(r) + μ/2 Σ ‖w − Δ(Θ)‖²``, the constraint form an error alone with
    Σ C(r) at most a share of what the weights cost whole. Ranks are enumerated, with what the singular values
    leave over, so that the choice is exact (of the constraint form on the convex hulls of the weights' error
    over cost). A weight may also stay whole, and none has a rank below 1.

    Squared errors of different weights are not comparable; what the constraint form compares instead, the
    damage they do in the outputs or ``−log(1 − ‖w − Δ(Θ)‖²/‖w‖²)``, is said in ``_ranks.comparable``.

    Attributes:
        alpha: α of the penalty form; None: the constraint form.
        keep: share of the cost that stays, over 0, of the constraint form.
        round_to: ranks are multiples of this, and of 4 below it; 1: any.
        scheme: of kernels; auto: both.
        options: of each weight, in their order; empty: costs are numbers of weights.

    Raises:
        UsageError: neither ``keep`` nor ``alpha`` is given, or both, or one is out of range.
    """

    alpha: float | None = None
    keep: float | None = None
    round_to: int = 1
    scheme: Scheme = "auto"
    options: tuple[Options, ...] = ()

    def __post_init__(self) -> None:
        if (self.alpha is None) == (self.keep is None):
            raise UsageError("learned ranks need either keep, the share that stays, or alpha, a penalty")
        for name, value in (("keep", self.keep), ("alpha", self.alpha)):
            if value is not None and not value > 0:
                raise UsageError(f"{name} of learned ranks must be positive", why=f"found {value:g}")
        if self.round_to < 1:
            raise UsageError("round_to of learned ranks must be at least 1", why=f"found {self.round_to}")

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Return factors, or the weight itself where it stays whole.

        Raises:
            ValueError: the budget of the constraint form is less than the least ranks cost.
        """
        options = self._options([w.shape for w in weights])
        error = squared if self.penalised else comparable(options)
        several = [_Candidates(w, o, self.round_to, error) for w, o in zip(weights, options, strict=True)]
        if self.alpha is not None:
            price = 0.0 if mu is None else 2 * self.alpha / mu
            chosen = [at_price(s.choices, price) for s in several]
        else:
            assert self.keep is not None, "one of both forms is asked for"
            chosen = within([s.choices for s in several], self.keep * sum(o.whole for o in options))
        return [s.encoding(i) for s, i in zip(several, chosen, strict=True)]

    @property
    def penalised(self) -> bool:
        """Whether it is the penalty form."""
        return self.alpha is not None

    def cost(self, encodings: Sequence[Encoding]) -> float:
        """Return α Σ C(r); 0 of the constraint form."""
        shapes = [e.shape for e in encodings]
        total = sum(
            _cost(encoding, options)
            for encoding, options in zip(encodings, self._options(shapes), strict=True)
        )
        return total * (self.alpha or 0.0)

    def _options(self, shapes: Sequence[Sequence[int]]) -> Sequence[Options]:
        return self.options or [stored(s, layouts_of(len(s), self.scheme)) for s in shapes]

    def of(self, positions: Sequence[int]) -> LearnedRank:
        """Return the projection for some of the weights, of the same share."""
        options = tuple(self.options[i] for i in positions) if self.options else ()
        return LearnedRank(self.alpha, self.keep, self.round_to, self.scheme, options)

    def least(self, shapes: Sequence[Sequence[int]]) -> float:
        """Return the least share of the cost that the constraint form can keep of weights of these shapes."""
        options = self._options(shapes)
        costs = [choices_of(s, o, self.round_to) for s, o in zip(shapes, options, strict=True)]
        whole = sum(o.whole for o in options)
        return sum(float(min(c)) for c, _, _ in costs) / whole if whole else 1.0


def _cost(encoding: Encoding, options: Options) -> float:
    """Return what a weight costs in the form it has."""
    if not isinstance(encoding, LowRank):
        return options.whole
    return encoding.rank * next(o.cost for o in options.ways if o.layout == encoding.layout)


class _Candidates:
    """What one weight may become, with the error of each choice."""

    def __init__(self, weight: Array, options: Options, round_to: int, error: Error) -> None:
        self._weight, self._options = weight, options
        costs, self._ways, self._ranks = choices_of(weight.shape, options, round_to)
        self._found: dict[int, Decomposition] = {}
        errors, of_ranks = [], dict[int, Array]()
        for way, rank in zip(self._ways, self._ranks, strict=True):
            if way >= 0 and way not in self._found:
                option = options.ways[way]
                self._found[way] = decompose(option.layout.matrix(weight))
                of_ranks[way] = error(self._found[way].left_over(), option)
            errors.append(0.0 if way < 0 else float(of_ranks[way][rank]))
        self.choices = Choices(costs, np.array(errors))

    def encoding(self, choice: int) -> Encoding:
        way = self._ways[choice]
        if way < 0:
            whole: Encoding = ENCODINGS["dense"](self._weight)  # type: ignore[call-arg]
            return whole
        layout = self._options.ways[way].layout
        factors = self._found[way].truncated(self._ranks[choice])
        return low_rank(*factors, self._weight.shape, layout, self._weight.dtype)
