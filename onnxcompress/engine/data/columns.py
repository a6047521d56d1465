"""Columns: one key of the data, N examples of equal shape, read when asked for.

Rows are read with ``seek`` and ``readinto`` from an open file rather than through a memory map: the pages of
a map count as resident memory once they were touched, so that memory would grow with the data after all.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError


class Column(Protocol):
    """N examples of one key."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape with the example axis first."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers."""
        ...

    @property
    def channels_last(self) -> bool:
        """Whether the examples are known to be images H W C (decoded image files)."""
        ...

    def take(self, indices: Array) -> Array:
        """Return the examples at ``indices``, stacked along the first axis."""
        ...


class ArrayColumn:
    """A column held in memory."""

    channels_last = False

    def __init__(self, array: Array) -> None:
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype

    def take(self, indices: Array) -> Array:
        """Return the examples at ``indices``."""
        return np.asarray(self._array[indices])


class FileColumn:
    """A column stored row by row (C order) in an open file, from ``offset`` on."""

    channels_last = False

    def __init__(self, file: BinaryIO, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._file, self._offset = file, offset
        self.shape, self.dtype = shape, dtype
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize

    def take(self, indices: Array) -> Array:
        """Return the examples at ``indices``; neighbours are read in one go."""
        order = np.argsort(indices, kind="stable")
        wanted = np.asarray(indices)[order]
        rows = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        starts = [0, *(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), len(wanted)]
        if self._row_bytes and len(wanted):
            flat = memoryview(rows.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
            for start, end in itertools.pairwise(starts):
                self._read(int(wanted[start]), flat[start * self._row_bytes : end * self._row_bytes])
        if not self.dtype.isnative:
            rows = rows.astype(self.dtype.newbyteorder("="))
        result = np.empty_like(rows)
        result[order] = rows
        return result

    def _read(self, row: int, target: memoryview) -> None:
        self._file.seek(self._offset + row * self._row_bytes)
        done = 0
        while done < len(target):
            count = self._file.readinto(target[done:])  # type: ignore[attr-defined]
            if not count:
                raise DataError(
                    "the data file ends early",
                    where=f"example {row}",
                    why="it was cut or changed while it was read",
                )
            done += count


class JoinedColumn:
    """Several columns, one after the other; all have the same shape of an example."""

    def __init__(self, parts: Sequence[Column]) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([part.shape[0] for part in parts])
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *parts[0].shape[1:])
        self.dtype: np.dtype[Any] = np.result_type(*[part.dtype for part in parts])
        self.channels_last = parts[0].channels_last

    def take(self, indices: Array) -> Array:
        """Return the examples at ``indices``, whichever parts they lie in."""
        which = np.searchsorted(self._ends, indices, side="right")
        result = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for number in np.unique(which):
            at = np.flatnonzero(which == number)
            first = 0 if number == 0 else int(self._ends[number - 1])
            result[at] = self._parts[int(number)].take(np.asarray(indices)[at] - first)
        return result


class LazyColumn:
    """A column of many small files, each holding one or more examples and read on demand.

    Args:
        counts: number of examples in each file.
        read: returns all examples of the file with this number, example axis first.
    """

    channels_last = False

    def __init__(
        self, counts: Sequence[int], shape: tuple[int, ...], dtype: np.dtype[Any], read: Any
    ) -> None:
        self._ends = np.cumsum(counts).tolist()
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *shape)
        self.dtype = dtype
        self._read = read

    def take(self, indices: Array) -> Array:
        """Return the examples at ``indices``; each file is opened once."""
        result = np.empty((len(indices), *self.shape[1:]), self.dtype)
        by_file: dict[int, list[int]] = {}
        for position, index in enumerate(np.asarray(indices).tolist()):
            by_file.setdefault(bisect.bisect_right(self._ends, index), []).append(position)
        for number, positions in by_file.items():
            rows = self._read(number)
            first = self._ends[number - 1] if number else 0
            for position in positions:
                result[position] = rows[int(indices[position]) - first]
        return result
