"""Scaled codebook: fixed levels times a scale per channel or group; and the projections with fixed levels.

One scale for the whole weight needs no form of its own: the scaled levels are the entries of a
:class:`~onnxcompress.encodings.codebook.Codebook`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding, Numbers, Site
from onnxcompress.csteps.levels import integer_grid, powers_of_two
from onnxcompress.csteps.nearest import nearest, nearest_rows
from onnxcompress.csteps.scale import best_scales
from onnxcompress.csteps.sign import binary_scales
from onnxcompress.csteps.ternary import ternary_scales
from onnxcompress.encodings._base import ENCODINGS, PROJECTIONS, Previous
from onnxcompress.encodings._grouped_nodes import emit_codes, emit_ungrouped
from onnxcompress.encodings._groups import Granularity, grouped, interleave, join, split, ungrouped
from onnxcompress.encodings._limits import check_entries, check_groups
from onnxcompress.encodings._packing import Packing, packing
from onnxcompress.encodings.codebook import Codebook, CodebookProjection


@ENCODINGS.register("scaled")
@dataclass(frozen=True, eq=False)
class ScaledCodebook(Encoding):
    """``levels[codes] · scale`` with one scale per channel, or per group of weights of a channel.

    Attributes:
        codes: uint8, in the weight's shape.
        levels: (K,) ascending, exactly representable, in the weight's storage type.
        scales: (groups,) in the weight's storage type.
        axis: channel axis.
        group_size: consecutive weights of a channel, flattened, that share a scale; None: the channel.
    """

    kind: ClassVar[str] = "scaled"
    codes: Array
    levels: Array
    scales: Array
    axis: int = 0
    group_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.codes.shape))
        object.__setattr__(self, "dtype", self.levels.dtype)

    @property
    def packing(self) -> Packing:
        """How the codes are packed."""
        return packing(max(2, len(self.levels)), grouped(self.codes, self.axis, self.group_size).size)

    def decode(self) -> Array:
        """Look up the levels and scale them, rounding once to the storage type."""
        codes = grouped(self.codes, self.axis, self.group_size)
        wide = np.float64 if self.dtype.itemsize > 4 else np.float32
        values = self.levels[codes].astype(wide) * self.scales[:, None].astype(wide)
        return ungrouped(values.astype(self.dtype), self.shape, self.axis)

    def stored_bits(self) -> int:
        """Bits of the packed codes, the levels and the scales."""
        size = grouped(self.codes, self.axis, self.group_size).size
        return 8 * (self.packing.size_bytes(size) + int(self.levels.nbytes) + int(self.scales.nbytes))

    def information_bits(self) -> float:
        """log₂ K bits a weight, the levels and the scales."""
        bits = self.codes.size * float(np.log2(max(2, len(self.levels))))
        return bits + 8.0 * (self.levels.nbytes + self.scales.nbytes)

    def take(self, axis: int, keep: Array) -> Encoding:
        """Keep some slices along one axis; groups that this would tear apart make the result dense."""
        codes = np.take(self.codes, keep, axis=axis)
        if axis == self.axis:
            scales = self.scales.reshape(self.shape[axis], -1)[keep].reshape(-1)
            return ScaledCodebook(codes, self.levels, scales, self.axis, self.group_size)
        if self.group_size is None:
            return ScaledCodebook(codes, self.levels, self.scales, self.axis)
        return ENCODINGS["dense"](np.take(self.decode(), keep, axis=axis))  # type: ignore[call-arg]

    def codebook(self) -> Array:
        """Return the entries of each group, (groups, K)."""
        return self.levels * self.scales[:, None]

    def numbers(self) -> tuple[Numbers, ...]:
        """Return the scales."""
        codes = grouped(self.codes, self.axis, self.group_size)
        groups = np.broadcast_to(np.arange(len(self.scales))[:, None], codes.shape)
        places = ungrouped(groups, self.shape, self.axis)
        return (Numbers(self.scales, places, self.levels[self.codes]),)

    def with_numbers(self, values: Sequence[Array]) -> ScaledCodebook:
        """Return the same codes with other scales."""
        return ScaledCodebook(self.codes, self.levels, values[0], self.axis, self.group_size)

    def emit(self, site: Site) -> ir.Value:
        """Emit look-ups of the levels and one multiplication by the scales."""
        values = emit_codes(
            site, self.packing, grouped(self.codes, self.axis, self.group_size), site.tensor("k", self.levels)
        )
        scales = site.tensor("s", self.scales.reshape(-1, 1))
        narrow = self.dtype.itemsize < 4
        if narrow:  # onnxruntime multiplies no 16-bit numbers on the CPU, and folds no such product
            values, scales = (
                site.node("Cast", [v], {"to": int(ir.DataType.FLOAT)}) for v in (values, scales)
            )
        values = site.node("Mul", [values, scales])
        if narrow:
            values = site.node("Cast", [values], {"to": int(ir.DataType.from_numpy(self.dtype))})
        return emit_ungrouped(site, values, self.shape, self.axis, self.group_size)


@dataclass(frozen=True)
class FixedLevels(CodebookProjection):
    """Codebooks whose levels are fixed up to a scale.

    Attributes:
        scaled: learn the scale with the least distortion; otherwise it is 1.
        granularity: one scale per ``"tensor"``, ``"channel"`` or ``"group"``.
        axis: channel axis for channels and groups.
        group_size: weights of a group, along the flattened rest of a channel.

    Raises:
        UsageError: there are groups without a size, or a size without groups.
    """

    scaled: bool = True
    granularity: Granularity = "tensor"
    axis: int = 0
    group_size: int | None = None

    def __post_init__(self) -> None:
        check_groups(self.granularity, self.group_size)

    @property
    def single(self) -> bool:
        """Whether there is one scale, learned or not."""
        return not self.scaled or self.granularity == "tensor"

    @abstractmethod
    def levels(self) -> Array:
        """Return the levels, ascending."""

    def scales(self, rows: Array) -> Array:
        """Return the best scale for each row of (R, n) weights."""
        return best_scales(rows, self.levels())

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Return the closest codebooks; several weights share one scale (per tensor only)."""
        if not self.single:
            return [self._by_group(w) for w in weights]
        scale = 1.0
        if self.scaled:
            values = weights[0] if len(weights) == 1 else np.concatenate([np.ravel(w) for w in weights])
            scale = float(self.scales(_float(values.reshape(1, -1)))[0])
        results: list[Encoding] = []
        for w in weights:
            with np.errstate(over="ignore"):  # the end of a grid may be infinite where no weight is there
                entries = (self.levels() * float(w.dtype.type(scale))).astype(w.dtype)
            results.append(Codebook(nearest(w, entries), entries))
        return results

    def _by_group(self, weight: Array) -> Encoding:
        group_size = self.group_size if self.granularity == "group" else None
        levels = self.levels()
        parts = split(weight, self.axis, group_size)
        scales = [self.scales(_float(part)).astype(weight.dtype) for part in parts]
        codes = [
            nearest_rows(part, levels * scale.astype(np.float64)[:, None])
            for part, scale in zip(parts, scales, strict=True)
        ]
        channels = weight.shape[self.axis]
        return ScaledCodebook(
            join(codes, weight.shape, self.axis),
            levels.astype(weight.dtype),
            interleave([s[:, None] for s in scales], channels).reshape(-1),
            self.axis,
            group_size,
        )


@PROJECTIONS.register("binary")
@dataclass(frozen=True)
class Binary(FixedLevels):
    """{−1, +1} or {−a, +a}."""

    def levels(self) -> Array:
        """Return −1 and +1."""
        return np.array([-1.0, 1.0])

    def scales(self, rows: Array) -> Array:
        """Return a = mean |w|."""
        return binary_scales(rows)


@PROJECTIONS.register("ternary")
@dataclass(frozen=True)
class Ternary(FixedLevels):
    """{−1, 0, +1} or {−a, 0, +a}."""

    def levels(self) -> Array:
        """Return −1, 0 and +1."""
        return np.array([-1.0, 0.0, 1.0])

    def scales(self, rows: Array) -> Array:
        """Return the closed form of the best a."""
        return ternary_scales(rows)


@PROJECTIONS.register("pow2")
@dataclass(frozen=True)
class PowersOfTwo(FixedLevels):
    """{0, ±1, ±1/2, …, ±2⁻ᶜ}, as many as fit into ``entries`` codes, with or without a learned scale.

    Attributes:
        entries: K, at least 3.

    Raises:
        UsageError: fewer or more than 256 entries.
    """

    entries: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_entries(self.entries, 3)

    def levels(self) -> Array:
        """Return the powers of two and 0."""
        return powers_of_two(self.entries)


@PROJECTIONS.register("int")
@dataclass(frozen=True)
class IntGrid(FixedLevels):
    """Equally spaced levels: for K = 2ᵇ the integers −2ᵇ⁻¹ … 2ᵇ⁻¹ − 1 times a scale.

    Attributes:
        entries: K, 2 to 256.
        zero: whether 0 is a level (otherwise ±1, ±3 …).
        symmetric: leave out the lowest level; takes 3 entries where 0 is a level.

    Raises:
        UsageError: fewer or more entries.
    """

    entries: int = 16
    zero: bool = True
    symmetric: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_entries(self.entries, 3 if self.zero and self.symmetric else 2)  # of two, 0 alone would be left

    def levels(self) -> Array:
        """Return the integers."""
        return integer_grid(self.entries, zero=self.zero, symmetric=self.symmetric)


def _float(values: Array) -> Array:
    """Return float16 and bfloat16 as float32, in which sums of them are exact enough to compare."""
    return values.astype(np.float32) if values.dtype.itemsize < 4 else values
