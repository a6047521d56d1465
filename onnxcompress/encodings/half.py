"""Half precision: weights rounded to 16 bits, float16 or bfloat16, and cast back while the model is loaded.

The file has half the size, what is computed stays in the weight's own type, at the same speed. float16 keeps
11 significant bits and numbers up to 65504, bfloat16 keeps 8 and all of float32's range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding, Numbers, Site
from onnxcompress.encodings import _nodes
from onnxcompress.encodings._base import ENCODINGS, PROJECTIONS, Previous, Projection

Kind = Literal["fp16", "bf16"]

TYPES: dict[str, np.dtype[np.generic]] = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
"""Name of a half precision -> its type."""

LARGEST = {"fp16": 65504.0, "bf16": (2 - 2.0**-7) * 2.0**127}
"""Name of a half precision -> the largest finite number it has."""

_LEAST_OPSET = {np.dtype(np.float16): 6, np.dtype(ml_dtypes.bfloat16): 13}
"""First versions of Cast that know a type."""


@ENCODINGS.register("half")
@dataclass(frozen=True, eq=False)
class Half(Encoding):
    """The rounded values.

    Attributes:
        values: float16 or ml_dtypes.bfloat16, in the weight's shape.
        dtype: storage type of the weight.
    """

    kind: ClassVar[str] = "half"
    values: Array
    dtype: np.dtype[np.generic]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.values.shape))
        object.__setattr__(self, "least_opset", _LEAST_OPSET[self.values.dtype])

    def decode(self) -> Array:
        """Return the values in the weight's type, which holds them exactly."""
        return self.values.astype(self.dtype)

    def stored_bits(self) -> int:
        """16 bits a weight."""
        return 8 * int(self.values.nbytes)

    def information_bits(self) -> float:
        """16 bits a weight."""
        return float(self.stored_bits())

    def take(self, axis: int, keep: Array) -> Half:
        """Keep some slices along one axis."""
        return Half(np.take(self.values, keep, axis=axis), self.dtype)

    def numbers(self) -> tuple[Numbers, ...]:
        """Return the values."""
        return (Numbers(self.values.reshape(-1)),)

    def with_numbers(self, values: Sequence[Array]) -> Half:
        """Return other values, of the same kind."""
        return Half(values[0].reshape(self.shape), self.dtype)

    def emit(self, site: Site) -> ir.Value:
        """Emit the values and a Cast."""
        to = _nodes.cast_type(site, ir.DataType.from_numpy(self.dtype))
        return site.node("Cast", [site.tensor("q", self.values)], {"to": to})


@PROJECTIONS.register("half")
@dataclass(frozen=True)
class HalfPrecision(Projection):
    """Low precision: the nearest number of 16 bits, of two equally near ones the even one (IEEE 754, 4.3.1).

    Numbers beyond the largest finite one become that one: it is the nearest that is a number.

    Attributes:
        kind: ``"fp16"`` or ``"bf16"``.
    """

    kind: Kind = "fp16"

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Round every weight."""
        return [Half(nearest_half(w, self.kind), w.dtype) for w in weights]


def nearest_half(values: Array, kind: Kind) -> Array:
    """Return the nearest finite numbers of a half precision.

    >>> nearest_half(np.array([1 + 2**-11, 1 + 3 * 2**-11, 1e9]), "fp16").tolist()  # ties go to even
    [1.0, 1.001953125, 65504.0]
    """
    dtype = TYPES[kind]
    within = np.clip(values, -LARGEST[kind], LARGEST[kind]) if values.dtype.itemsize > 2 else values
    if values.dtype != np.float64 or kind != "bf16":
        return np.clip(within.astype(dtype), -LARGEST[kind], LARGEST[kind]).astype(dtype)
    # float64 is rounded to bfloat16 by way of float32, which may make a tie of what was none.
    rounded = within.astype(np.float32).astype(dtype)
    bits = rounded.view(np.int16)
    away = (np.abs(within) > np.abs(rounded.astype(np.float64))).astype(np.int16) * 2 - 1
    neighbour = (bits + away).astype(np.int16).view(dtype)
    closer = np.abs(neighbour.astype(np.float64) - within) < np.abs(rounded.astype(np.float64) - within)
    return np.where(closer, neighbour, rounded)
