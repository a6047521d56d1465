"""Packing codes into bytes that standard operators can unpack.

``digits`` codes of base K make one *unit* of ``unit_bits`` bits: its value is ``Σ codeᵢ Kⁱ``. Eight bits of a
unit are a byte of its own; what is left is split into 4, 2 and 1 bits, which 2, 4 and 8 units share a byte
for. So K = 2, 3, 4, 16 take one byte per 8, 5, 4, 2 codes, K = 8 takes 12 bits per 4, K = 32 takes 10 bits
per 2. Unpacking is a Cast, a table look-up per shared byte, and a sum; the value of a unit then indexes a
table of its digits, or at once a table of decoded weights.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Site
from onnxcompress.encodings import _nodes

_TABLE = 1 << 14
"""Largest number of values of a unit of several digits: bounds the tables built when a model is loaded."""
_STREAM, _PART = 60, 160
"""About as many bytes take the nodes that read a whole byte of each unit, and a part of a shared one."""


@dataclass(frozen=True)
class Packing:
    """How codes of one base share bytes.

    Attributes:
        base: K, number of different codes, 2 to 256.
        digits: codes in one unit.
        unit_bits: bits of one unit.
    """

    base: int
    digits: int
    unit_bits: int

    @property
    def whole_bytes(self) -> int:
        """Bytes that belong to one unit alone."""
        return self.unit_bits // 8

    @property
    def parts(self) -> tuple[int, ...]:
        """Widths in bits of the parts that share bytes, widest first."""
        return tuple(w for w in (4, 2, 1) if self.unit_bits % 8 & w)

    def units(self, codes: int) -> int:
        """Number of units that hold this many codes, padded so that every shared byte is full."""
        units = -(-codes // self.digits)
        together = 8 // min(self.parts) if self.parts else 1
        return -(-units // together) * together

    def size_bytes(self, codes: int) -> int:
        """Bytes of all streams for this many codes."""
        return self.units(codes) * self.unit_bits // 8

    def streams(self, codes: Array) -> list[Array]:
        """Pack (…, n) codes along the last axis into uint8 streams (…, bytes): whole bytes, then parts."""
        n = codes.shape[-1]
        total = self.units(n) * self.digits
        padded = np.zeros((*codes.shape[:-1], total), dtype=np.uint8)
        padded[..., :n] = codes
        grouped = padded.reshape(*codes.shape[:-1], -1, self.digits)
        values = np.zeros(grouped.shape[:-1], dtype=np.int32)
        for digit in reversed(range(self.digits)):
            values *= self.base
            values += grouped[..., digit]
        streams = [(values >> 8 * i & 255).astype(np.uint8) for i in range(self.whole_bytes)]
        shift = 8 * self.whole_bytes
        for width in self.parts:
            part = (values >> shift & (1 << width) - 1).astype(np.uint8)
            lanes = part.reshape(*part.shape[:-1], -1, 8 // width)
            packed = np.zeros(lanes.shape[:-1], dtype=np.uint8)
            for lane in range(8 // width):
                packed |= lanes[..., lane] << np.uint8(width * lane)
            streams.append(packed)
            shift += width
        return streams

    def unpack(self, streams: list[Array], n: int) -> Array:
        """Undo :meth:`streams`: return (…, n) codes, uint8."""
        values = np.zeros((*streams[0].shape[:-1], self.units(n)), dtype=np.int32)
        for i in range(self.whole_bytes):
            values += streams[i].astype(np.int32) << 8 * i
        shift = 8 * self.whole_bytes
        for width, packed in zip(self.parts, streams[self.whole_bytes :], strict=True):
            lanes = packed[..., None] >> (width * np.arange(8 // width, dtype=np.uint8)) & ((1 << width) - 1)
            values += lanes.reshape(values.shape).astype(np.int32) << shift
            shift += width
        codes = values[..., None] // self.base ** np.arange(self.digits) % self.base
        return codes.reshape(*values.shape[:-1], -1)[..., :n].astype(np.uint8)

    def emit_units(self, site: Site, streams: list[ir.Value], lead: int = 0) -> ir.Value:
        """Emit the values of the units, int32, from uint8 streams; the first ``lead`` axes are kept."""
        total: ir.Value | None = None
        for i in range(self.whole_bytes):
            part = _nodes.integers(site, streams[i])
            if i:
                part = site.node("Mul", [part, _power(site, 8 * i)])
            total = part if total is None else site.node("Add", [total, part])
        shift = 8 * self.whole_bytes
        for width, stream in zip(self.parts, streams[self.whole_bytes :], strict=True):
            table = _part_table(site, width, shift)
            found = site.node("Gather", [table, _nodes.integers(site, stream)])
            flat = _nodes.reshape(site, found, [0] * lead + [-1])
            total = flat if total is None else site.node("Add", [total, flat])
            shift += width
        assert total is not None
        return total

    def emit_table(self, site: Site, entries: ir.Value) -> ir.Value:
        """Emit the table from a unit's value to its decoded weights: (values, digits), or the entries."""
        if self.digits == 1:
            return entries
        return site.node("Gather", [entries, _nodes.digits(site, self.base, self.digits)])


@functools.cache
def packing(base: int, count: int, rows: int = 1) -> Packing:
    """Return the packing that takes the fewest bytes for ``rows`` times ``count`` codes, nodes included."""
    choices = []
    for digits in range(1, 9):
        values = base**digits
        if digits == 1 or values <= _TABLE:
            least = (values - 1).bit_length()
            choices += [Packing(base, digits, bits) for bits in range(least, -(-least // 8) * 8 + 1)]
    return min(choices, key=lambda c: (_cost(c, count, rows), c.unit_bits, c.digits))


def _cost(choice: Packing, count: int, rows: int) -> int:
    nodes = _STREAM * choice.whole_bytes + _PART * len(choice.parts)
    return rows * choice.size_bytes(count) + nodes


def _power(site: Site, bits: int) -> ir.Value:
    return site.shared(f"scalar{1 << bits}", np.array(1 << bits, dtype=np.int32))


def _part_table(site: Site, width: int, shift: int) -> ir.Value:
    table = _nodes.digits(site, 1 << width, 8 // width)
    if shift == 0:
        return table
    return site.shared_node(f"part{width}at{shift}", "Mul", [table, _power(site, shift)])
