"""Assignment: the nearest entry of a sorted codebook, the smaller one on a tie."""

from __future__ import annotations

import numpy as np

from onnxcompress.core.encoding import Array

_CHUNK = 1 << 20


def nearest(weights: Array, entries: Array) -> Array:
    """Return for every weight the index of the nearest entry, as uint8, in the weight's shape.

    Args:
        weights: any shape, any float type.
        entries: (K,) ascending, K ≤ 256. Repeated entries: the first one is chosen.

    >>> nearest(np.array([0.0, 0.5, 0.6]), np.array([0.0, 1.0]))
    array([0, 0, 1], dtype=uint8)
    """
    wide = np.asarray(entries, dtype=np.float64)
    flat = np.ravel(weights)
    thresholds = _below((wide[1:] / 2 + wide[:-1] / 2), flat.dtype)
    codes = np.empty(flat.shape, dtype=np.uint8)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        if part.dtype.itemsize < 4:
            part = part.astype(np.float32)
        codes[start : start + _CHUNK] = np.searchsorted(thresholds, part, side="left")
    return _first_of_equals(wide)[codes].reshape(np.shape(weights))


def nearest_rows(rows: Array, entries: Array) -> Array:
    """Return (R, n) codes of (R, n) weights, each row with its own (R, K) entries; ties as in ``nearest``."""
    if entries.shape[1] > 32 or rows.shape[0] == 1:
        return np.stack([nearest(r, e) for r, e in zip(rows, entries, strict=True)])
    wide = np.asarray(entries, dtype=np.float64)
    thresholds = _below(wide[:, 1:] / 2 + wide[:, :-1] / 2, rows.dtype)
    values = rows.astype(np.float32) if rows.dtype.itemsize < 4 else rows
    codes = np.zeros(rows.shape, dtype=np.uint8)
    for k in range(thresholds.shape[1]):
        codes += values > thresholds[:, k : k + 1]
    first = np.stack([_first_of_equals(e) for e in wide])
    return np.take_along_axis(first, codes.astype(np.int64), axis=1)


def _below(thresholds: Array, dtype: np.dtype[np.floating]) -> Array:
    """Round thresholds down to a type in which comparing with weights of ``dtype`` is exact and fast."""
    if dtype == np.float64:
        return thresholds
    narrow = thresholds.astype(np.float32)
    too_high = narrow.astype(np.float64) > thresholds
    narrow[too_high] = np.nextafter(narrow[too_high], np.float32(-np.inf))
    return narrow


def _first_of_equals(entries: Array) -> Array:
    return np.searchsorted(entries, entries, side="left").astype(np.uint8)
