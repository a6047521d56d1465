"""Pools: many small weights decoded together, because nodes of their own would outweigh their codes.

The codes of all weights of a pool lie in one tensor, one after the other, and their codebooks in another;
both are unpacked once and split, so that each weight adds one look-up and one Reshape. Weights with the
entries of one trellis are decoded together, too: where the codes of one go on from those of the one before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Encoding
from onnxcompress.core.model import Model, Weight
from onnxcompress.encodings import _nodes
from onnxcompress.encodings._grouped_nodes import emit_shaped
from onnxcompress.encodings._packing import packing
from onnxcompress.encodings.codebook import Codebook
from onnxcompress.encodings.trellis import Trellis, emit_stream
from onnxcompress.engine.proto import plain_bytes
from onnxcompress.engine.storage.site import GraphSite

_LARGEST = 1 << 16
"""Weights with more elements are decoded on their own: there the nodes do not count."""
_ENTRIES = 16
_FEWEST = 3
_NODES = 90
"""About as many bytes take the nodes that a weight of a pool needs for itself."""

_SCALED = 60
"""Bytes of a Mul and its scale."""

Pool = Sequence[tuple[Weight, Codebook | Trellis]]


def pools(encoded: Sequence[tuple[Weight, Encoding]], opset: int) -> list[Pool]:
    """Return the weights that are stored together, those of one graph, type and number of entries each."""
    groups: dict[tuple[int, int, str], list[tuple[Weight, Codebook]]] = {}
    if opset < 5:
        return []
    for weight, encoding in encoded:
        if isinstance(encoding, Codebook) and type(encoding) is Codebook and _fits(weight, encoding):
            key = (id(weight.graph), len(encoding.entries), encoding.dtype.name)
            groups.setdefault(key, []).append((weight, encoding))
    return [*(pool for pool in groups.values() if len(pool) >= _FEWEST), *_streams(encoded, opset)]


def ordered(model: Model) -> list[tuple[Weight, Encoding]]:
    """Return the encoded weights of a model in the order in which they are stored, from the largest on."""
    weights = model.weights
    known = [(weights[n], e) for n, e in model.encodings.items() if e.kind != "dense" and n in weights]
    return sorted(known, key=lambda pair: (-pair[0].size, pair[0].name))


def stored_bits(model: Model) -> dict[str, int]:
    """Return the bits that the tensors of every encoded weight take in the file.

    Entries that several weights share, because they are decoded together, count with the first of these.
    """
    encoded = ordered(model)
    found = {weight.name: encoding.stored_bits() for weight, encoding in encoded}
    for pool in pools(encoded, max(model.opset, Trellis.least_opset)):  # the exporter raises an older one
        found |= {weight.name: e.own_bits() for weight, e in pool[1:] if isinstance(e, Trellis)}
    return found


def _streams(
    encoded: Sequence[tuple[Weight, Encoding]], opset: int
) -> Iterator[list[tuple[Weight, Trellis]]]:
    """Yield weights that share the entries of a trellis, each going on from the one before."""
    groups: dict[tuple[object, ...], list[tuple[Weight, Trellis]]] = {}
    for weight, encoding in encoded if opset >= Trellis.least_opset else ():
        if isinstance(encoding, Trellis) and 0 < weight.size < _LARGEST:
            bits = 2 + encoding.bits * weight.size
            if bits + 8 * (_NODES + _SCALED) < 8 * plain_bytes(weight):
                entries = (encoding.entries.dtype.name, encoding.entries.tobytes())
                key = (id(weight.graph), encoding.bits, encoding.dtype.name, *entries)
                groups.setdefault(key, []).append((weight, encoding))
    for members in groups.values():
        yield from (stream for stream in _joined(members) if len(stream) > 1)


def _joined(members: Sequence[tuple[Weight, Trellis]]) -> list[list[tuple[Weight, Trellis]]]:
    """Return as few streams of weights that go on from one another as there can be, in whatever order.

    What a weight goes on from, and what it leaves, are places that it leads from one to the other: wanted are
    trails that use every one once. They begin where more lead away than arrive; of what is left then, every
    walk comes back to where it began, and is put in there (Hierholzer, 1873).
    """
    leaving: dict[int, list[tuple[Weight, Trellis]]] = {}
    surplus: Counter[int] = Counter()
    for member in members:
        leaving.setdefault(member[1].before, []).append(member)
        surplus[member[1].before] += 1
        surplus[member[1].after] -= 1

    def walk(place: int) -> list[tuple[Weight, Trellis]]:
        trail = []
        while leaving.get(place):
            trail.append(leaving[place].pop(0))
            place = trail[-1][1].after
        return trail

    def with_rings(stream: list[tuple[Weight, Trellis]]) -> list[tuple[Weight, Trellis]]:
        position = 0
        while position < len(stream):
            stream[position:position] = walk(stream[position][1].before)
            position += 1
        return stream

    trails = [walk(start) for start in surplus.elements()]
    streams = [with_rings(trail) for trail in trails]
    return [*streams, *(ring for place in leaving if (ring := with_rings(walk(place))))]


def _fits(weight: Weight, encoding: Codebook) -> bool:
    if encoding.axis is not None or not 0 < weight.size < _LARGEST or len(encoding.entries) > _ENTRIES:
        return False
    padded = weight.size % packing(max(2, len(encoding.entries)), _LARGEST).digits != 0
    bits = encoding.stored_bits() + 8 * (_NODES + 60 * padded)
    return bits < 8 * plain_bytes(weight)


def emit_pool(site: GraphSite, members: Sequence[Codebook | Trellis]) -> list[ir.Value]:
    """Emit the decoding of several weights of one pool; return one value for each."""
    parts = [m for m in members if isinstance(m, Trellis)]
    return (
        _emit_trellises(site, parts)
        if parts
        else _emit_codebooks(site, [m for m in members if isinstance(m, Codebook)])
    )


def _emit_trellises(site: GraphSite, parts: Sequence[Trellis]) -> list[ir.Value]:
    values = _split(site, emit_stream(site, parts), [p.windows.size for p in parts], axis=2)
    return [part.emit_part(site, value) for part, value in zip(parts, values, strict=True)]


def _emit_codebooks(site: GraphSite, books: Sequence[Codebook]) -> list[ir.Value]:
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


def _split(site: GraphSite, values: ir.Value, sizes: Sequence[int], axis: int = 0) -> list[ir.Value]:
    if site.opset < 13:
        return site.nodes("Split", [values], len(sizes), {"axis": axis, "split": list(sizes)})
    where = {"axis": axis} if axis else {}
    return site.nodes("Split", [values, site.tensor("t", np.array(sizes, dtype=np.int64))], len(sizes), where)
