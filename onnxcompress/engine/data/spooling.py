"""Spooling: items that come one after the other go to unnamed temporary files, so none stays in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError, OnnxCompressError
from onnxcompress.engine.data.columns import ArrayColumn, Column, FileColumn, JoinedColumn
from onnxcompress.engine.data.feeding import Feeding, TensorLike
from onnxcompress.engine.data.fit import find_fit
from onnxcompress.engine.data.options import DataOptions

LABELS = "labels"


class _Spool:
    """One key's file, growing: runs of arrays of one type, for a longer text or a wider number may follow."""

    def __init__(self, array: Array) -> None:
        self.file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  lives as long as the column
        self.shape, self.dtype = array.shape[1:], array.dtype
        self.runs: list[tuple[np.dtype[Any], int, int]] = []  # type, offset, number of examples

    def add(self, array: Array) -> None:
        offset = self.file.tell()
        self.file.write(np.ascontiguousarray(array).tobytes())
        if self.runs and self.runs[-1][0] == array.dtype:
            dtype, offset, count = self.runs.pop()
            self.runs.append((dtype, offset, count + len(array)))
        else:
            self.runs.append((array.dtype, offset, len(array)))

    def column(self) -> Column:
        self.file.flush()
        columns = [FileColumn(self.file, at, (count, *self.shape), dtype) for dtype, at, count in self.runs]
        return columns[0] if len(columns) == 1 else JoinedColumn(columns)


def spool_items(
    items: Iterable[Any], inputs: Sequence[TensorLike], origin: str, options: DataOptions
) -> dict[str, Column]:
    """Return the columns of items ``{key: array}`` or ``(dict, labels)``, each one example or one batch.

    Raises DataError where an item is something else, or differs from the first in keys, shape or type.
    """
    spools: dict[str, _Spool] = {}
    number = -1
    for number, item in enumerate(_guarded(items, origin)):
        where = f"{origin}, item {number}"
        arrays = batched(_as_dict(item, inputs, where), inputs, options, where)
        if number == 0:
            spools = {key: _Spool(array) for key, array in arrays.items()}
        if set(arrays) != set(spools):
            raise DataError(
                "the items differ in their keys",
                where=where,
                why=f"{sorted(arrays)} against {sorted(spools)}",
            )
        for key, array in arrays.items():
            spool = spools[key]
            if array.shape[1:] != spool.shape or array.dtype.kind != spool.dtype.kind:
                raise DataError(
                    f"the items of '{key}' differ",
                    where=where,
                    why=f"an example of shape {array.shape[1:]} and type {array.dtype}, "
                    f"the first had {spool.shape} and {spool.dtype}",
                    fix="give all examples the same shape",
                )
            _write(spool, array, origin)
    if number < 0:
        raise DataError("the data is empty", where=origin, why="it yields no item")
    return {key: spool.column() for key, spool in spools.items()}


def _write(spool: _Spool, array: Array, origin: str) -> None:
    try:
        spool.add(array)
    except OSError as error:
        raise DataError(
            "cannot store the data temporarily",
            where=origin,
            why=error.strerror or str(error),
            fix="TMPDIR names another folder for temporary files",
        ) from None


def _guarded(items: Iterable[Any], origin: str) -> Iterator[Any]:
    """Yield the items; an error of the person's own code, or its end, becomes one sentence."""
    iterator = iter(items)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except OnnxCompressError:
            raise
        except (Exception, SystemExit) as error:
            raise DataError(
                "the data failed", where=origin, why=f"{type(error).__name__}: {error}"
            ) from error
        yield item


def _as_dict(item: Any, inputs: Sequence[TensorLike], where: str) -> dict[str, Array]:
    labels = None
    if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], Mapping):
        item, labels = item
    if not isinstance(item, Mapping):
        if len(inputs) == 1 and (isinstance(item, (np.ndarray, np.generic)) or is_torch(item)):
            item = {inputs[0].name: item}
        else:
            raise DataError(
                "an item of the data is not a dict",
                where=where,
                why=f"found {type(item).__name__}, "
                "expected {input name: array} or a pair of such a dict and labels",
            )
    arrays = {str(key): _array(str(key), value, where) for key, value in item.items()}
    if labels is not None:
        arrays[LABELS] = _array(LABELS, labels, where)
    return arrays


def is_torch(value: Any) -> bool:
    """Return whether this is a tensor of torch, which need not be imported to tell."""
    return hasattr(value, "detach")


def _array(key: str, value: Any, where: str) -> Array:
    if is_torch(value):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"'{key}' is not an array", where=where, why=str(error)) from None
    if array.dtype == np.object_ and all(isinstance(word, str) for word in array.flat):
        return array.astype(np.str_)  # text, as onnxruntime takes it
    if array.dtype.hasobject:
        raise DataError(
            f"'{key}' is not an array of numbers or text", where=where, why=f"found {type(value).__name__}"
        )
    return array


def batched(
    arrays: dict[str, Array], inputs: Sequence[TensorLike], options: DataOptions, where: str
) -> dict[str, Array]:
    """Return the arrays with an example axis, added where they are one example.

    An array that fits the input with its first axis as the example axis is a batch, one that fits as a whole
    is one example; where both fit, a batch is preferred, but for models whose inputs share no batch axis.
    """
    feeding = Feeding.of(inputs)
    singles = []
    for item in inputs:
        if item.name in arrays:
            array = arrays[item.name]
            as_batch = array.ndim > 0 and _fits(item.name, array, item, feeding, options)
            as_one = _fits(item.name, array[None], item, feeding, options)
            if not as_batch and not as_one:
                find_fit(item.name, ArrayColumn(array if array.ndim else array[None]), item, feeding, options)
            singles.append(as_one and not (as_batch and array.ndim >= len(item.shape) + feeding.whole))
    if any(singles) and not all(singles):
        raise DataError("an item mixes one example with a batch", where=where, why=_shapes(arrays))
    if singles and singles[0]:
        return {key: array[None] for key, array in arrays.items()}
    return {key: np.atleast_1d(array) for key, array in arrays.items()}


def _fits(key: str, array: Array, item: TensorLike, feeding: Feeding, options: DataOptions) -> bool:
    try:
        find_fit(key, ArrayColumn(array), item, feeding, options)
    except DataError:
        return False
    return True


def _shapes(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"'{key}' {array.shape}" for key, array in arrays.items())
