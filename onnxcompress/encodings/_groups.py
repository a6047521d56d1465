"""A weight seen as channels, and each channel as groups of consecutive weights."""

from __future__ import annotations

from typing import Literal

import numpy as np

from onnxcompress.core.encoding import Array

Granularity = Literal["tensor", "channel", "group"]


def _rows(values: Array, axis: int) -> Array:
    channels = values.shape[axis]
    return np.ascontiguousarray(np.moveaxis(values, axis, 0)).reshape(channels, -1)


def grouped(values: Array, axis: int, group_size: int | None) -> Array:
    """Return (groups, width): channels first, each cut into groups, the last one padded with zeros."""
    rows = _rows(values, axis)
    width = rows.shape[1] if group_size is None else min(group_size, rows.shape[1])
    missing = -rows.shape[1] % max(1, width)
    if missing:
        rows = np.pad(rows, ((0, 0), (0, missing)))
    return rows.reshape(-1, width)


def ungrouped(values: Array, shape: tuple[int, ...], axis: int) -> Array:
    """Undo :func:`grouped`: return the weight of ``shape``."""
    moved = (shape[axis], *(d for i, d in enumerate(shape) if i != axis))
    columns = int(np.prod(moved[1:], dtype=np.int64))
    rows = values.reshape(shape[axis], -1)[:, :columns]
    return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), 0, axis))


def split(values: Array, axis: int, group_size: int | None) -> list[Array]:
    """Return the groups as (groups, width) arrays: the whole ones, then the shorter last ones if any."""
    rows = _rows(values, axis)
    columns = rows.shape[1]
    if group_size is None or group_size >= columns:
        return [rows]
    whole = columns // group_size * group_size
    parts = [rows[:, :whole].reshape(-1, group_size)]
    if whole < columns:
        parts.append(np.ascontiguousarray(rows[:, whole:]))
    return parts


def join(parts: list[Array], shape: tuple[int, ...], axis: int) -> Array:
    """Undo :func:`split`: return the weight of ``shape``."""
    channels = shape[axis]
    rows = np.concatenate([p.reshape(channels, -1) for p in parts], axis=1)
    return ungrouped(rows, shape, axis)


def interleave(parts: list[Array], channels: int) -> Array:
    """Return one (groups, K) table, in the order of the groups, from the tables of ``split``'s parts."""
    tables = [p.reshape(channels, -1, p.shape[-1]) for p in parts]
    return np.ascontiguousarray(np.concatenate(tables, axis=1)).reshape(-1, parts[0].shape[-1])


def regroup(table: Array, parts: list[Array]) -> list[Array]:
    """Undo :func:`interleave` for the parts of ``split``."""
    if len(parts) == 1:
        return [table]
    channels = len(parts[1])
    by_channel = table.reshape(channels, -1, table.shape[-1])
    return [by_channel[:, :-1].reshape(-1, table.shape[-1]), by_channel[:, -1]]
