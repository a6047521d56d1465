"""Pools: many small weights decoded together, because nodes of their own would outweigh their codes.

The codes of all weights of a pool lie in one tensor, one after the other, and their codebooks in another;
both are unpacked once and split, so that each weight adds one look-up and one Reshape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Encoding
from onnxcompress.core.model import Weight
from onnxcompress.encodings import _nodes
from onnxcompress.encodings._grouped_nodes import emit_shaped
from onnxcompress.encodings._packing import packing
from onnxcompress.encodings.codebook import Codebook
from onnxcompress.engine.proto import plain_bytes
from onnxcompress.engine.storage.site import GraphSite

_LARGEST = 1 << 16
"""Weights with more elements are decoded on their own: there the nodes do not count."""
_ENTRIES = 16
_FEWEST = 3
_NODES = 90
"""About as many bytes take the nodes that a weight of a pool needs for itself."""

Pool = list[tuple[Weight, Codebook]]


def pools(encoded: Sequence[tuple[Weight, Encoding]], opset: int) -> list[Pool]:
    """Return the weights that are stored together, those of one graph, type and number of entries each."""
    groups: dict[tuple[int, int, str], Pool] = {}
    if opset < 5:
        return []
    for weight, encoding in encoded:
        if isinstance(encoding, Codebook) and type(encoding) is Codebook and _fits(weight, encoding):
            key = (id(weight.graph), len(encoding.entries), encoding.dtype.name)
            groups.setdefault(key, []).append((weight, encoding))
    return [pool for pool in groups.values() if len(pool) >= _FEWEST]


def _fits(weight: Weight, encoding: Codebook) -> bool:
    if encoding.axis is not None or not 0 < weight.size < _LARGEST or len(encoding.entries) > _ENTRIES:
        return False
    padded = weight.size % packing(max(2, len(encoding.entries)), _LARGEST).digits != 0
    bits = encoding.stored_bits() + 8 * (_NODES + 60 * padded)
    return bits < 8 * plain_bytes(weight)


def emit_pool(site: GraphSite, books: Sequence[Codebook]) -> list[ir.Value]:
    """Emit the decoding of several codebooks with the same number of entries; return one value for each."""
    entries = len(books[0].entries)
    chosen = packing(max(2, entries), sum(b.codes.size for b in books))
    units = [chosen.units(b.codes.size) for b in books]
    streams = zip(*(chosen.streams(b.codes.reshape(-1)) for b in books), strict=True)
    packed = [site.tensor("q", np.concatenate(parts)) for parts in streams]
    numbers = _split(site, chosen.emit_units(site, packed), units)
    table = site.tensor("k", np.stack([b.entries for b in books]))
    if chosen.digits > 1:
        digits = _nodes.digits(site, chosen.base, chosen.digits)
        table = _nodes.reshape(site, site.node("Gather", [table, digits], {"axis": 1}), [-1, chosen.digits])
    else:
        table = _nodes.reshape(site, table, [-1])
    equal = {"num_outputs": len(books)} if site.opset >= 18 else {}
    tables = site.nodes("Split", [table], len(books), equal)
    return [
        emit_shaped(site, site.node("Gather", [t, n]), count * chosen.digits, chosen.digits, shape=b.shape)
        for t, n, count, b in zip(tables, numbers, units, books, strict=True)
    ]


def _split(site: GraphSite, values: ir.Value, sizes: Sequence[int]) -> list[ir.Value]:
    if site.opset < 13:
        return site.nodes("Split", [values], len(sizes), {"axis": 0, "split": list(sizes)})
    return site.nodes("Split", [values, site.tensor("t", np.array(sizes, dtype=np.int64))], len(sizes), {})
