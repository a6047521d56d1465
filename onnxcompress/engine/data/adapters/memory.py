"""Data given in Python: a dict of arrays, an iterable of dicts, or onnxruntime's CalibrationDataReader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.adapters._base import Store, adapter, is_samples
from onnxcompress.engine.data.columns import ArrayColumn
from onnxcompress.engine.data.feeding import TensorLike
from onnxcompress.engine.data.options import DataOptions
from onnxcompress.engine.data.spooling import is_torch, spool_items


@dataclass(frozen=True)
class Items:
    """Dicts of arrays, each one example or one batch, and where they come from."""

    items: Iterable[Any]
    origin: str


def _accepts(spec: Any) -> bool:
    return (
        not isinstance(spec, (str, bytes, Path))
        and not is_samples(spec)
        and (isinstance(spec, (Mapping, np.ndarray, Iterable, Items)) or hasattr(spec, "get_next"))
    )


@adapter("memory", _accepts, "an iterable of dicts (in Python)")
def open_objects(spec: Any, inputs: Sequence[TensorLike], options: DataOptions) -> Store:
    """Open a dict of arrays or one array as they are; write what an iterable yields to temporary files."""
    if isinstance(spec, np.ndarray) or is_torch(spec):
        if len(inputs) != 1:
            raise DataError(
                "one array can feed only a model with one input", why=f"this model has {len(inputs)}"
            )
        spec = {inputs[0].name: spec}
    if isinstance(spec, Mapping):
        plain = {str(k): value.detach().cpu() if is_torch(value) else value for k, value in spec.items()}
        arrays = {key: np.asarray(value) for key, value in plain.items()}
        for key, array in arrays.items():
            if array.dtype.hasobject or array.ndim == 0:
                raise DataError(
                    f"'{key}' is not an array of examples", why=f"type {array.dtype}, {array.ndim} axes"
                )
        return Store({key: ArrayColumn(array) for key, array in arrays.items()}, "arrays given in Python")
    if isinstance(spec, Items):
        return Store(spool_items(spec.items, inputs, spec.origin, options), spec.origin)
    items = _pulled(spec) if hasattr(spec, "get_next") else spec
    origin = f"{type(spec).__name__} given in Python"
    return Store(spool_items(items, inputs, origin, options), origin)


def _pulled(reader: Any) -> Iterator[Any]:
    """Yield from a CalibrationDataReader until it returns nothing."""
    while True:
        item = reader.get_next()
        if not item:
            return
        yield item
