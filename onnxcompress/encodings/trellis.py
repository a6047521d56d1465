"""Trellis: every weight is one of many entries; its own code and those just before it say which.

Codes of b bits lie one behind the other in a stream of bits. A window of w bits slides over it, b bits a
weight, and names one of 2^w entries. A weight costs b bits, as in a plain codebook of 2^b entries, but is
nearer to what it should be: it chooses among more entries (:mod:`onnxcompress.csteps.trellis`).

Decoding: a transposed convolution over the bytes makes as many numbers as windows end in them, and moves the
end of each window to the point; a Cast cuts off what is behind it, a Mod what is before the window.

Several weights may share entries, each at its own scale. Their windows go on from one another, so that they
can be decoded together (:mod:`onnxcompress.engine.storage.pool`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Encoding, Numbers, Site
from onnxcompress.core.errors import UsageError
from onnxcompress.csteps.trellis import MOST_WINDOW, Solution, best_paths, trellis
from onnxcompress.encodings import _nodes
from onnxcompress.encodings._base import ENCODINGS, PROJECTIONS, Previous, Projection
from onnxcompress.encodings.codebook import AdaptiveCodebook, Codebook
from onnxcompress.encodings.half import nearest_half

MOST_BITS = MOST_WINDOW // 2
"""Widest code: a window holds at least two."""
_LEAST_BYTES = 512
"""Weights with fewer bytes of codes get a plain codebook: nodes and entries would outweigh what is gained."""
_LEAST_WEIGHTS = 64
"""Smaller ones among several get a plain codebook, too."""
_SHARE = 8
"""The entries take at most this part of the bytes of the codes, where a window of two codes lets them."""
_HALF_ERROR = 2.0**-10
"""Relative error up to which entries are stored in 16 bits: far below that of the codes."""


@ENCODINGS.register("trellis")
@dataclass(frozen=True, eq=False)
class Trellis(Encoding):
    """Windows that go on from one another, and entries.

    Attributes:
        windows: which entry each weight is, uint8, in the weight's shape. The last w − b bits of one are
            the first ones of the next, in C order.
        entries: (2^w,), in the weight's storage type or in float16.
        bits: bits of a code, 1 to 4.
        dtype: storage type of the weight.
        scale: the weight is this number times entries; several weights may share the entries.
    """

    kind: ClassVar[str] = "trellis"
    least_opset: ClassVar[int] = 10
    windows: Array
    entries: Array
    bits: int
    dtype: np.dtype[np.generic]
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of the weight."""
        shape: tuple[int, ...] = self.windows.shape
        return shape

    @property
    def window(self) -> int:
        """Bits of a window."""
        return len(self.entries).bit_length() - 1

    @property
    def before(self) -> int:
        """Bits that stand before the first code and belong to the first window."""
        return int(self.windows.flat[0]) >> self.bits

    @property
    def after(self) -> int:
        """Bits that the last window would leave to one that goes on from it."""
        return int(self.windows.flat[-1]) & (1 << self.window - self.bits) - 1

    def decode(self) -> Array:
        """Look every window up."""
        decoded: Array = self.codebook()[self.windows]
        return decoded

    def stored_bits(self) -> int:
        """Bits of the stream, the entries and the scale."""
        return 8 * (int(_stream([self])[0].nbytes) + int(self.entries.nbytes)) + self._scale_bits

    def own_bits(self) -> int:
        """Bits of the codes and the scale: what it adds where another's stream and entries are stored."""
        return int(self.windows.size) * self.bits + self._scale_bits

    def information_bits(self) -> float:
        """``bits`` bits a weight, what stands before the first one, and the entries."""
        codes = self.windows.size * self.bits
        return float(codes + self.window - self.bits + 8 * self.entries.nbytes)

    def take(self, axis: int, keep: Array) -> Encoding:
        """Keep some slices along one axis: what is left has a plain codebook, its codes being the windows."""
        return Codebook(np.take(self.windows, keep, axis=axis), self.codebook())

    def codebook(self) -> Array:
        """Return the entries times the scale, in the type of the weight."""
        entries = self.entries.astype(self.dtype).astype(self._wide) * self._wide.type(self.scale)
        stored: Array = entries.astype(self.dtype)
        return stored

    @property
    def _scale_bits(self) -> int:
        return 0 if self.scale == 1 else 8 * self._wide.itemsize

    @property
    def _wide(self) -> np.dtype[np.generic]:
        """The type of the product: onnxruntime multiplies no 16-bit numbers on the CPU."""
        return np.dtype(np.float32) if self.dtype.itemsize < 4 else self.dtype

    def choices(self) -> int:
        """Return the number of different codes."""
        return 1 << self.bits

    def numbers(self) -> tuple[Numbers, ...]:
        """Return the entries; one that is 0 stays so."""
        places = self.windows.astype(np.int64)
        places[self.entries[places] == 0] = -1
        factors = None if self.scale == 1 else np.full(self.shape, self.scale, self.dtype)
        return (Numbers(self.entries, places, factors, codebook=True),)

    def with_numbers(self, values: Sequence[Array]) -> Trellis:
        """Return the same codes with other entries."""
        return replace(self, entries=values[0].reshape(self.entries.shape))

    def emit(self, site: Site) -> ir.Value:
        """Emit the stream, the windows, and their look-up."""
        return self.emit_part(site, emit_stream(site, [self]))

    def emit_part(self, site: Site, values: ir.Value) -> ir.Value:
        """Emit what makes the weight of its entries, (1, 1, weights)."""
        if self.scale != 1:
            narrow = self._wide != self.dtype
            if narrow:
                values = site.node("Cast", [values], {"to": int(ir.DataType.FLOAT)})
            values = site.node("Mul", [values, site.tensor("s", np.array(self.scale, self._wide))])
            if narrow:
                values = site.node("Cast", [values], {"to": int(ir.DataType.from_numpy(self.dtype))})
        return _nodes.reshape(site, values, self.shape)


def emit_stream(site: Site, parts: Sequence[Trellis]) -> ir.Value:
    """Emit the decoding of weights with the same entries, each going on from the one before.

    Returns:
        The entries of all weights, (1, 1, weights), in their type.
    """
    first = parts[0]
    stride, lanes = _rhythm(first.bits)
    stream, behind = _stream(parts)
    packed = site.tensor("q", stream.reshape(-1, stride).T[None])
    pads = [_codes_ahead(first), behind]
    numbers = site.node("Cast", [packed], {"to": int(ir.DataType.FLOAT)})
    kernel = site.shared(f"windows{first.bits}of{first.window}", _kernel(first.bits, first.window))
    shifted = site.node("ConvTranspose", [numbers, kernel], {"strides": [lanes], "pads": pads})
    count = len(first.entries)
    modulus = site.shared(f"scalar{count}", np.array(count, dtype=np.int32))
    windows = site.node("Mod", [_nodes.integers(site, shifted), modulus])
    entries = site.tensor("k", first.entries)
    if first.entries.dtype != first.dtype:
        entries = site.node("Cast", [entries], {"to": int(ir.DataType.from_numpy(first.dtype))})
    return site.node("Gather", [entries, windows])


@PROJECTIONS.register("trellis")
@dataclass(frozen=True)
class TrellisCodebook(Projection):
    """Trellis-coded quantisation with learned entries, to a local optimum.

    Weights of fewer than 512 bytes of codes get a plain codebook of 2^bits entries. Several weights share
    the entries, each at its own scale, and count together; of them those of fewer than 64 elements get one.

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
        """Find windows and entries; the entries are the same for all weights, but for a scale."""
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
        large = [k for k, w in enumerate(weights) if w.size >= _LEAST_WEIGHTS]
        if sum(weights[k].size for k in large) * self.bits // 8 < _LEAST_BYTES:
            large = []
        small = [k for k in range(len(weights)) if k not in large]
        found: dict[int, Encoding] = {}
        for places, project in ((small, self._plain), (large, self._coded)):
            if places:
                given = ([weights[k] for k in places], [counted[k] for k in places])
                before = None if previous is None else [previous[k] for k in places]
                found |= zip(places, project(*given, before), strict=True)
        return [found[k] for k in range(len(weights))]

    def _plain(
        self, weights: Sequence[Array], counted: Sequence[Array], previous: Previous
    ) -> list[Encoding]:
        codebook = AdaptiveCodebook(1 << self.bits)
        return codebook.project_seen(weights, [~c for c in counted], previous=previous)

    def _coded(
        self, weights: Sequence[Array], counted: Sequence[Array], previous: Previous
    ) -> list[Encoding]:
        window = self.window
        if window is None:
            codes = sum(w.size for w in weights) * self.bits // 8
            window = int(np.clip(np.log2(codes / (2 * _SHARE)), 2 * self.bits, MOST_WINDOW))
        # From the largest on, as they are stored together.
        order = sorted(range(len(weights)), key=lambda k: -weights[k].size)
        paths = [weights[k].reshape(-1) for k in order]
        counts = [counted[k].reshape(-1) for k in order]
        before = None if previous is None else [previous[k] for k in order]
        solution = trellis(paths, counts, self.bits, window, _earlier(before, window))
        dtype = weights[0].dtype
        entries, scales = _stored(solution.entries, dtype), solution.scales.astype(dtype)
        stored = Solution(entries.astype(np.float64), scales.astype(np.float64))
        windows = best_paths(paths, counts, stored, self.bits)
        found = [
            Trellis(part.reshape(weights[k].shape), entries, self.bits, dtype, float(scale))
            for part, k, scale in zip(windows, order, scales, strict=True)
        ]
        return [found[order.index(k)] for k in range(len(weights))]


def _earlier(previous: Previous, window: int) -> Solution | None:
    """Return the solution that earlier encodings come from."""
    before = [e for e in previous or () if isinstance(e, Trellis) and e.window == window]
    if previous is None or len(before) < len(previous):
        return None
    return Solution(before[0].entries.astype(np.float64), np.array([e.scale for e in before]))


def _rhythm(bits: int) -> tuple[int, int]:
    """Return after how many bytes codes lie in the same places again, and how many codes these bytes hold."""
    stride = bits // math.gcd(bits, 8)
    return stride, 8 * stride // bits


def _codes_ahead(first: Trellis) -> int:
    """Return how many codes hold what stands before the first weight's; nothing does: zeros."""
    return -(-(first.window - first.bits) // first.bits) if first.before else 0


def _stream(parts: Sequence[Trellis]) -> tuple[Array, int]:
    """Return the codes of weights as bytes, highest bit first, and how many windows too many they make."""
    first, (stride, lanes) = parts[0], _rhythm(parts[0].bits)
    ahead = _codes_ahead(first)
    mask = (1 << first.bits) - 1
    before = [first.before >> first.bits * k & mask for k in reversed(range(ahead))]
    codes = np.concatenate([np.array(before, np.uint8), *(p.windows.reshape(-1) & mask for p in parts)])
    groups = -(-len(codes) // lanes)
    shifts = np.arange(first.bits - 1, -1, -1, dtype=np.uint8)
    packed = np.packbits((codes[:, None] >> shifts & 1).reshape(-1))
    return np.pad(packed, (0, stride * groups - len(packed))), lanes * (groups + 1) - len(codes)


def _kernel(bits: int, window: int) -> Array:
    """Return the weights (bytes, 1, 2 · places) that make windows of groups of bytes, float32.

    A group of bytes holds the ends of as many windows as there are places. Window r ends behind bit
    (r + 1)·bits of its own group, and goes back into the group before it, whose bytes the second half of
    the kernel carries over. A byte counts 2 to the number of bits between its end and the window's; those
    that the window does not reach are left out, so that sums are below 2^16 and multiples of 2^−8: exact.
    """
    stride, lanes = _rhythm(bits)
    kernel = np.zeros((stride, 1, 2 * lanes), np.float32)
    for place in range(2 * lanes):
        end = (place % lanes + 1) * bits
        for byte in range(stride):
            start = 8 * byte - (8 * stride if place >= lanes else 0)
            if start < end and start + 8 > end - window:
                kernel[byte, 0, place] = 2.0 ** (end - start - 8)
    return kernel


def _stored(entries: Array, dtype: np.dtype[np.generic]) -> Array:
    """Return entries as they are stored: in 16 bits where that is as good, else in the weight's type."""
    half = nearest_half(entries, "fp16")
    close = np.abs(half.astype(np.float64) - entries) <= _HALF_ERROR * np.abs(entries)
    return half if dtype.itemsize > 2 and close.all() else entries.astype(dtype)
