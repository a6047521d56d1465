"""Batches: examples as tensors, kept in memory where they fit, read again and again where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch

from onnxcompress.core.encoding import Array
from onnxcompress.core.task import Task
from onnxcompress.engine.graph.values import Value, to_value

CACHE_BYTES = 512 << 20
"""Inputs of training and validation are kept in memory up to this size."""

_CHUNK = 1024

T = TypeVar("T")


class Batches:
    """The examples of a task as a graph takes them.

    Args:
        task: the task.
        dtype: floating-point type of the graph.
        device: where the graph runs.
        cache_bytes: inputs up to this size are kept on the device.
    """

    def __init__(
        self, task: Task, dtype: torch.dtype, device: torch.device, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._samples, self._labelled = task.samples, task.labelled
        self._dtype, self.device = dtype, device
        self.known = np.union1d(task.train, task.validation)
        self._inputs: dict[str, torch.Tensor] | None = None
        self._labels: torch.Tensor | None = None
        self._rows: torch.Tensor | None = None
        one = self._read(self.known[:1])
        tensors = [v for v in one.values() if isinstance(v, torch.Tensor)]
        size = sum(v.numel() * v.element_size() for v in tensors) * len(self.known)
        if len(tensors) == len(one) and size <= cache_bytes:
            self._fill()

    @property
    def cached(self) -> bool:
        """Whether the inputs are kept in memory."""
        return self._inputs is not None

    def rows(self, indices: Array) -> torch.Tensor | None:
        """Return the places of examples among training and validation; None where one is of neither."""
        places = np.searchsorted(self.known, indices)
        if not (self.known[np.minimum(places, len(self.known) - 1)] == indices).all():
            return None
        return torch.from_numpy(places).to(self.device)

    def inputs(self, indices: Array, rows: torch.Tensor | None = None) -> dict[str, Value]:
        """Return the inputs of these examples, stacked; ``rows`` as ``rows(indices)`` gave them."""
        if self._inputs is not None and rows is not None:
            return {name: values.index_select(0, rows) for name, values in self._inputs.items()}
        return self._read(indices)

    def labels(self, indices: Array, rows: torch.Tensor | None = None) -> torch.Tensor | None:
        """Return the labels of these examples: int64 classes or floating-point values; None without."""
        if self._labels is not None and rows is not None:
            return self._labels.index_select(0, rows)
        if not self._labelled:
            return None
        labels = self._samples.labels(indices)
        if labels is None:
            return None
        tensor = torch.from_numpy(np.ascontiguousarray(labels)).to(self.device)
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor.long()

    def _read(self, indices: Array) -> dict[str, Value]:
        arrays = self._samples.inputs(indices)
        return {name: to_value(np.asarray(array), self._dtype, self.device) for name, array in arrays.items()}

    def _fill(self) -> None:
        full: dict[str, torch.Tensor] = {}
        for start in range(0, len(self.known), _CHUNK):
            for name, part in self._read(self.known[start : start + _CHUNK]).items():
                assert isinstance(part, torch.Tensor)
                if start == 0:
                    full[name] = part.new_empty((len(self.known), *part.shape[1:]))
                full[name][start : start + len(part)] = part
        self._inputs = full
        self._labels = self.labels(self.known)


def prefetched(items: Iterator[T], read: Callable[[T], Any]) -> Iterator[tuple[T, Any]]:
    """Yield ``(item, read(item))``, reading the next one in a thread while the caller works on this one."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  only where data is streamed

    with ThreadPoolExecutor(1, "onnxcompress-data") as pool:
        waiting = None
        for item in items:
            following = (item, pool.submit(read, item))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()
