"""Trellis: every weight is one of many entries; its own code and those just before it say which.

Codes of b bits lie one behind the other in a stream of bits. A window of w bits slides over it, b bits a
weight, and names one of 2^w entries. A weight costs b bits, as in a plain codebook of 2^b entries, but is
nearer to what it should be: it chooses among more entries (:mod:`onnxcompress.csteps.trellis`).

Decoding: a convolution over the bytes, one output channel for each place that a window may have in them,
moves the end of each window to the point; a Cast cuts off what is behind it, a Mod what is before the window.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding, Numbers, Site
from onnxcompress.core.errors import UsageError
from onnxcompress.csteps.trellis import MOST_WINDOW, best_path, trellis
from onnxcompress.encodings import _nodes
from onnxcompress.encodings._base import ENCODINGS, PROJECTIONS, Previous, Projection
from onnxcompress.encodings._grouped_nodes import emit_shaped
from onnxcompress.encodings.codebook import AdaptiveCodebook, Codebook
from onnxcompress.encodings.half import nearest_half

MOST_BITS = MOST_WINDOW // 2
"""Widest code: a window holds at least two."""
_LEAST_BYTES = 512
"""Weights with fewer bytes of codes get a plain codebook: nodes and entries would outweigh what is gained."""
_SHARE = 8
"""The entries take at most this part of the bytes of the codes, where a window of two codes lets them."""
_HALF_ERROR = 2.0**-10
"""Relative error up to which entries are stored in 16 bits: far below that of the codes."""


@ENCODINGS.register("trellis")
@dataclass(frozen=True, eq=False)
class Trellis(Encoding):
    """A stream of codes, and entries.

    Attributes:
        stream: (n,) uint8: a byte whose last bits stand before the first code, then the codes, highest bit
            first, of the weights in the order of :func:`_order`.
        shape: shape of the weight.
        entries: (2^w,), in the weight's storage type or in float16.
        bits: bits of a code, 1 to 4.
        dtype: storage type of the weight.
    """

    kind: ClassVar[str] = "trellis"
    least_opset: ClassVar[int] = 10
    stream: Array
    shape: tuple[int, ...]
    entries: Array
    bits: int
    dtype: np.dtype[np.generic]

    @property
    def window(self) -> int:
        """Bits of a window."""
        return len(self.entries).bit_length() - 1

    @functools.cached_property
    def windows(self) -> Array:
        """Which entry each weight is, uint8, in its shape."""
        size = math.prod(self.shape)
        order = _order(size, self.bits)
        bits = np.unpackbits(self.stream)
        along = np.zeros(len(order), np.uint8)
        first = 8 + self.bits - self.window
        for place in range(self.window):
            column = bits[first + place :: self.bits][: len(order)]
            along |= column << np.uint8(self.window - 1 - place)
        flat = np.empty(len(order), np.uint8)
        flat[order] = along
        return flat[:size].reshape(self.shape)

    def decode(self) -> Array:
        """Look every window up."""
        return self.codebook()[self.windows]

    def stored_bits(self) -> int:
        """Bits of the stream and the entries."""
        return 8 * int(self.stream.nbytes + self.entries.nbytes)

    def information_bits(self) -> float:
        """``bits`` bits a weight, what stands before the first one, and the entries."""
        codes = math.prod(self.shape) * self.bits
        return float(codes + self.window - self.bits + 8 * self.entries.nbytes)

    def take(self, axis: int, keep: Array) -> Encoding:
        """Keep some slices along one axis: what is left has a plain codebook, its codes being the windows."""
        return Codebook(np.take(self.windows, keep, axis=axis), self.codebook())

    def codebook(self) -> Array:
        """Return the entries, in the type of the weight."""
        return self.entries.astype(self.dtype)

    def choices(self) -> int:
        """Return the number of different codes."""
        return 1 << self.bits

    def numbers(self) -> tuple[Numbers, ...]:
        """Return the entries; one that is 0 stays so."""
        places = self.windows.astype(np.int64)
        places[self.entries[places] == 0] = -1
        return (Numbers(self.entries, places, codebook=True),)

    def with_numbers(self, values: Sequence[Array]) -> Trellis:
        """Return the same codes with other entries."""
        return replace(self, entries=values[0].reshape(self.entries.shape))

    def emit(self, site: Site) -> ir.Value:
        """Emit the stream, the windows, and their look-up."""
        stride, lanes = _rhythm(self.bits)
        packed = site.tensor("q", self.stream.reshape(1, 1, -1))
        stream = site.node("Cast", [packed], {"to": int(ir.DataType.FLOAT)})
        kernel = site.shared(f"windows{self.bits}of{self.window}", _kernel(self.bits, self.window))
        shifted = site.node("Conv", [stream, kernel], {"strides": [stride]} if stride > 1 else {})
        count = len(self.entries)
        modulus = site.shared(f"scalar{count}", np.array(count, dtype=np.int32))
        windows = site.node("Mod", [_nodes.integers(site, shifted), modulus])
        entries = site.tensor("k", self.entries)
        if self.entries.dtype != self.dtype:
            entries = site.node("Cast", [entries], {"to": int(ir.DataType.from_numpy(self.dtype))})
        values = site.node("Gather", [entries, windows])
        total = lanes * _groups(math.prod(self.shape), self.bits)
        return emit_shaped(site, values, total, 2, shape=self.shape)


@PROJECTIONS.register("trellis")
@dataclass(frozen=True)
class TrellisCodebook(Projection):
    """Trellis-coded quantisation with learned entries, to a local optimum.

    Weights of fewer than 512 bytes of codes get a plain codebook of 2^bits entries.

    Attributes:
        bits: bits of a code, 1 to 4.
        window: bits that name an entry, 2·bits to 8; None: by the number of weights, so that the entries
            stay few beside the codes.

    Raises:
        UsageError: out of range.
    """

    bits: int
    window: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_BITS:
            raise UsageError(f"bits of a trellis must be 1 to {MOST_BITS}", why=f"found {self.bits}")
        if self.window is not None and not 2 * self.bits <= self.window <= MOST_WINDOW:
            limits = f"{2 * self.bits} (two codes) to {MOST_WINDOW}"
            raise UsageError(f"window of a trellis must be {limits}", why=f"found {self.window}")

    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Find windows and entries; the entries are the same for all weights."""
        return self._project(weights, [np.ones(w.shape, bool) for w in weights], previous)

    def project_seen(
        self,
        weights: Sequence[Array],
        hidden: Sequence[Array],
        *,
        mu: float | None = None,
        previous: Previous = None,
    ) -> list[Encoding]:
        """Find what is closest to the weights outside ``hidden``."""
        return self._project(weights, [~h for h in hidden], previous)

    def _project(
        self, weights: Sequence[Array], counted: Sequence[Array], previous: Previous
    ) -> list[Encoding]:
        codes = sum(w.size for w in weights) * self.bits // 8
        if codes < _LEAST_BYTES:
            plain = AdaptiveCodebook(1 << self.bits)
            return plain.project_seen(weights, [~c for c in counted], previous=previous)
        window = self.window
        if window is None:
            window = int(np.clip(np.log2(codes / (2 * _SHARE)), 2 * self.bits, MOST_WINDOW))
        orders = [_order(w.size, self.bits) for w in weights]
        paths = [_along(w, o, 0).astype(np.float64) for w, o in zip(weights, orders, strict=True)]
        counts = [_along(c, o, False) for c, o in zip(counted, orders, strict=True)]
        start = next((e.entries for e in previous or () if isinstance(e, Trellis)), None)
        if start is not None and len(start) != 1 << window:
            start = None
        entries = _stored(trellis(paths, counts, self.bits, window, start), weights[0].dtype)
        exact = entries.astype(np.float64)
        return [
            Trellis(
                _packed(best_path(p, c, exact, self.bits), self.bits), w.shape, entries, self.bits, w.dtype
            )
            for p, c, w in zip(paths, counts, weights, strict=True)
        ]


def _rhythm(bits: int) -> tuple[int, int]:
    """Return after how many bytes codes lie in the same places again, and how many codes these bytes hold."""
    stride = bits // math.gcd(bits, 8)
    return stride, 8 * stride // bits


def _groups(size: int, bits: int) -> int:
    """Return how many times that is, for so many codes."""
    return -(-size // _rhythm(bits)[1])


def _order(size: int, bits: int) -> Array:
    """Return for each code of the stream which weight it belongs to, flattened; beyond ``size`` to none.

    The convolution yields all windows of the first place in the bytes, then all of the second, and so on:
    that is taken for the order of the weights, so that nothing has to be transposed.
    """
    lanes = _rhythm(bits)[1]
    return np.arange(lanes * _groups(size, bits)).reshape(lanes, -1).T.reshape(-1)


def _along(array: Array, order: Array, filler: float) -> Array:
    padded = np.full(len(order), filler, array.dtype)
    padded[: array.size] = array.reshape(-1)
    return padded[order]


def _packed(windows: Array, bits: int) -> Array:
    """Return the stream of a path."""
    first = windows[:1] >> np.uint8(bits)
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint8)
    return np.concatenate([first, np.packbits((windows[:, None] >> shifts & 1).reshape(-1))])


def _kernel(bits: int, window: int) -> Array:
    """Return the weights (places, 1, bytes) that make windows of bytes, float32.

    Window r ends behind bit (r + 1)·bits of its group; the row begins with the byte before the group. A byte
    counts 2 to the number of bits between its end and the window's; those that the window does not reach
    are left out, so that sums are below 2^16 and multiples of 2^−8: exact.
    """
    stride, lanes = _rhythm(bits)
    kernel = np.zeros((lanes, 1, stride + 1), np.float32)
    for lane in range(lanes):
        end = 8 + (lane + 1) * bits
        for byte in range(stride + 1):
            if 8 * byte < end and 8 * (byte + 1) > end - window:
                kernel[lane, 0, byte] = 2.0 ** (end - 8 * (byte + 1))
    return kernel


def _stored(entries: Array, dtype: np.dtype[np.generic]) -> Array:
    """Return entries as they are stored: in 16 bits where that is as good, else in the weight's type."""
    half = nearest_half(entries, "fp16")
    close = np.abs(half.astype(np.float64) - entries) <= _HALF_ERROR * np.abs(entries)
    return half if dtype.itemsize > 2 and close.all() else entries.astype(dtype)
