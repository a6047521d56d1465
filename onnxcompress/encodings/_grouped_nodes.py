"""Decoding nodes shared by all codebooks: codes to values, and groups back to the weight's shape."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array, Site
from onnxcompress.encodings import _nodes
from onnxcompress.encodings._packing import Packing


def emit_codes(site: Site, packing: Packing, codes: Array, entries: ir.Value | None) -> ir.Value:
    """Emit packed codes and look them up; None for entries: the codes themselves, int32, in their shape."""
    streams = [site.tensor("q", s) for s in packing.streams(codes.reshape(-1))]
    units = packing.emit_units(site, streams)
    if entries is not None:
        values = site.node("Gather", [packing.emit_table(site, entries), units])
    elif packing.digits > 1:
        values = site.node("Gather", [_nodes.digits(site, packing.base, packing.digits), units])
    else:
        values = units
    count = packing.units(codes.size) * packing.digits
    return emit_shaped(site, values, count, packing.digits, shape=codes.shape)


def emit_shaped(site: Site, values: ir.Value, count: int, digits: int, *, shape: tuple[int, ...]) -> ir.Value:
    """Emit what turns ``count`` values, (units, digits), into the first ones of them in ``shape``."""
    wanted = int(np.prod(shape, dtype=np.int64))
    if count != wanted:
        if digits > 1:
            values = _nodes.reshape(site, values, [-1])
        values = _nodes.head(site, values, wanted)
    elif digits > 1 or len(shape) != 1:
        return _nodes.reshape(site, values, shape)
    return values if len(shape) == 1 else _nodes.reshape(site, values, shape)


def emit_ungrouped(
    site: Site, values: ir.Value, shape: tuple[int, ...], axis: int, group_size: int | None
) -> ir.Value:
    """Emit what turns (groups, width) values into the weight of ``shape``."""
    channels = shape[axis]
    moved = (channels, *(d for i, d in enumerate(shape) if i != axis))
    columns = int(np.prod(moved[1:], dtype=np.int64))
    width = columns if group_size is None else min(group_size, columns)
    padded = columns % width != 0
    if padded:
        values = _nodes.reshape(site, values, [channels, -1])
        values = _nodes.head(site, values, columns, axis=1)
    if moved != (channels, width):
        values = _nodes.reshape(site, values, moved)
    if axis:
        back = [*range(1, axis + 1), 0, *range(axis + 1, len(moved))]
        values = site.node("Transpose", [values], {"perm": back})
    return values
