"""Dense: a weight stored as it is, for values that training changed and nothing compresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding, Numbers, Site
from onnxcompress.encodings._base import ENCODINGS


@ENCODINGS.register("dense")
@dataclass(frozen=True, eq=False)
class Dense(Encoding):
    """The values themselves.

    Attributes:
        values: the weight, in its storage type; not copied, do not change it.
    """

    kind: ClassVar[str] = "dense"
    values: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.values.shape))
        object.__setattr__(self, "dtype", self.values.dtype)

    def decode(self) -> Array:
        """Return the values."""
        return self.values

    def stored_bits(self) -> int:
        """Bits of the values."""
        return 8 * int(self.values.nbytes)

    def information_bits(self) -> float:
        """Bits of the values."""
        return float(self.stored_bits())

    def take(self, axis: int, keep: Array) -> Dense:
        """Keep some slices along one axis."""
        return Dense(np.take(self.values, keep, axis=axis))

    def numbers(self) -> tuple[Numbers, ...]:
        """Return the values."""
        return (Numbers(self.values.reshape(-1)),)

    def with_numbers(self, values: Sequence[Array]) -> Dense:
        """Return other values."""
        return Dense(values[0].reshape(self.shape))

    def emit(self, site: Site) -> ir.Value:
        """Emit one tensor."""
        return site.tensor("w", self.values)
