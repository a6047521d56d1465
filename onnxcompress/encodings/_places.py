"""Where the non-zero elements of a sparse weight are: one bit an element, or distances between them.

* *mask*: one bit an element says whether it is zero; the running sum of the bits numbers the others.
* *gaps*: one byte for each non-zero element, its distance from the one before; their running sum is where it
  is. Longer distances take further bytes (*fillers*), each of which arrives at an element, too.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding, Site
from onnxcompress.encodings import _nodes
from onnxcompress.encodings._packing import packing

LONGEST = 255
"""Largest distance that one byte holds."""
_BITS = packing(2, 1 << 20)
"""One bit an element, eight to the byte."""


def places_information_bits(size: int, count: int) -> float:
    """Return log₂ of the number of ways to choose ``count`` places of ``size``."""
    ways = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
    return ways / math.log(2)


def bytes_of_mask(size: int) -> int:
    """Return the bytes of the mask of so many elements."""
    return _BITS.size_bytes(size)


def emit_numbers(site: Site, places: Array, size: int) -> ir.Value:
    """Emit the mask and the numbers it gives the non-zero elements: int32 (size,), from 1 on, 0 for zeros."""
    mask = np.zeros(size, np.uint8)
    mask[places] = 1
    (stream,) = _BITS.streams(mask)
    bytes_ = _nodes.integers(site, site.tensor("q", stream))
    bits = site.node("Gather", [_nodes.digits(site, 2, 8), bytes_])
    bits = _nodes.reshape(site, bits, [-1])
    if _BITS.units(size) * 8 != size:
        bits = _nodes.head(site, bits, size)
    return site.node("Mul", [site.node("CumSum", [bits, _axis(site)]), bits])


def fillers(places: Array, *, told: bool = False) -> Array:
    """Return how many further bytes go before the one that arrives at each of the ascending places.

    Without ``told`` bytes are the same whether they arrive at a non-zero element or not, and each arrives
    somewhere else. With it a byte of 255 is a filler and no other byte is.
    """
    gaps = np.diff(places, prepend=0)
    return gaps // LONGEST if told else np.maximum(-(-gaps // LONGEST) - 1, 0)


def distances(places: Array, *, told: bool = False) -> tuple[Array, Array]:
    """Return the bytes, uint8, and the index of the one that arrives at each place; see :func:`fillers`."""
    more = fillers(places, told=told)
    ends = np.cumsum(more + 1) - 1
    steps = np.full(int((more + 1).sum()), LONGEST, dtype=np.uint8)
    steps[ends] = (np.diff(places, prepend=0) - more * LONGEST).astype(np.uint8)
    return steps, ends


def emit_arrivals(site: Site, steps: Array) -> tuple[ir.Value, ir.Value]:
    """Emit the bytes, int32, and where each arrives."""
    bytes_ = _nodes.integers(site, site.tensor("q", steps))
    return bytes_, site.node("CumSum", [bytes_, _axis(site)])


def emit_scattered(
    site: Site, size: int, dtype: np.dtype[np.generic], places: ir.Value, values: ir.Value
) -> ir.Value:
    """Emit ``size`` zeros with values in some places."""
    length = site.shared(f"shape{size}", np.array([size], dtype=np.int64))
    kind = ir.DataType.from_numpy(dtype)
    made = ir.DataType.FLOAT if kind == ir.DataType.BFLOAT16 else kind  # which it makes from set 20 on
    zero = ir.Tensor(np.zeros(1, made.numpy()), dtype=made)
    zeros = site.node("ConstantOfShape", [length], {"value": zero})
    if made != kind:
        zeros = site.node("Cast", [zeros], {"to": _nodes.cast_type(site, kind)})
    return site.node("ScatterElements", [zeros, places, values])


def _axis(site: Site) -> ir.Value:
    return site.shared("axis0", np.array(0, dtype=np.int64))


class PlacedEncoding(Encoding):
    """Base of encodings that store where the weights are that are not zero, as mask or gaps: the smaller.

    Attributes:
        places: int64, ascending: positions of these weights in the flattened weight.
    """

    least_opset: ClassVar[int] = 11
    places: Array

    @property
    def size(self) -> int:
        """Number of weights, zeros included."""
        return math.prod(self.shape)

    def spread(self, values: Array, elsewhere: int) -> Array:
        """Put one value for each of the places into an array of the weight's shape, else ``elsewhere``."""
        flat = np.full(self.size, elsewhere, values.dtype)
        flat[self.places] = values
        return flat.reshape(self.shape)

    def mask(self) -> Array:
        """Return where the weight is not zero, bool, in its shape."""
        return self.spread(np.ones(len(self.places), bool), 0)

    def stored_bits(self) -> int:
        """Bits of the mask or the gaps, and of what is in the places."""
        return 8 * min(self.mask_bytes(), self.gap_bytes())

    def emit(self, site: Site) -> ir.Value:
        """Emit the decoding of the form that takes fewer bytes, and the weight's shape."""
        flat = self.emit_mask(site) if self.mask_bytes() <= self.gap_bytes() else self.emit_gaps(site)
        return flat if len(self.shape) == 1 else _nodes.reshape(site, flat, self.shape)

    @abstractmethod
    def mask_bytes(self) -> int:
        """Return the bytes of the form with a mask."""

    @abstractmethod
    def gap_bytes(self) -> int:
        """Return the bytes of the form with gaps."""

    @abstractmethod
    def emit_mask(self, site: Site) -> ir.Value:
        """Emit the decoding of the form with a mask: the flattened weight."""

    @abstractmethod
    def emit_gaps(self, site: Site) -> ir.Value:
        """Emit the decoding of the form with gaps: the flattened weight."""
