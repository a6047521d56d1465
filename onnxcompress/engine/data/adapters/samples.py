"""Data given in Python as an object with the Samples protocol: length, inputs and labels by index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError
from onnxcompress.core.task import Samples
from onnxcompress.engine.data.adapters._base import Store, adapter, is_samples
from onnxcompress.engine.data.columns import Column
from onnxcompress.engine.data.feeding import TensorLike
from onnxcompress.engine.data.options import DataOptions


class _SampleColumn:
    """One input of a Samples object, or its labels (``key`` None)."""

    channels_last = False

    def __init__(self, samples: Samples, key: str | None) -> None:
        self._samples, self._key = samples, key
        first = self.take(np.zeros(1, np.int64))
        self.shape: tuple[int, ...] = (len(samples), *first.shape[1:])
        self.dtype = first.dtype

    def take(self, indices: Array) -> Array:
        if self._key is None:
            return np.asarray(self._samples.labels(indices))
        return np.asarray(self._samples.inputs(indices)[self._key])


@adapter("samples", is_samples, "an object with the Samples protocol (in Python)")
def open_samples(spec: Samples, inputs: Sequence[TensorLike], options: DataOptions) -> Store:
    """Open an object that reads its own examples."""
    origin = f"{type(spec).__name__} given in Python"
    if len(spec) == 0:
        raise DataError("the data is empty", where=origin, why="it holds no example")
    one = np.zeros(1, np.int64)
    columns: dict[str, Column] = {key: _SampleColumn(spec, key) for key in spec.inputs(one)}
    if spec.labels(one) is not None:
        columns[options.labels if options.labels not in (None, "none") else "labels"] = _SampleColumn(
            spec, None
        )
    return Store(columns, origin)
