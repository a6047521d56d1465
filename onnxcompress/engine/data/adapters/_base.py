"""What an adapter is: it turns one kind of ``--data`` into columns by key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxcompress.core.registry import Registry
from onnxcompress.engine.data.columns import Column
from onnxcompress.engine.data.feeding import TensorLike
from onnxcompress.engine.data.options import DataOptions


@dataclass(frozen=True)
class Store:
    """Data as it lies there: columns by key, not yet matched to the model.

    Attributes:
        columns: key -> column; a key ``""`` stands for data that has no name (a .npy file).
        origin: where it came from, for the report.
        notes: sentences on how it was read.
    """

    columns: Mapping[str, Column]
    origin: str
    notes: tuple[str, ...] = ()


Open = Callable[[Any, Sequence[TensorLike], DataOptions], Store]


@dataclass(frozen=True)
class Adapter:
    """One kind of data.

    Attributes:
        name: for messages and documentation.
        accepts: whether this adapter reads that specification; adapters exclude each other.
        open: reads it; raises DataError.
        example: how it is given, for documentation and error messages.
    """

    name: str
    accepts: Callable[[Any], bool]
    open: Open
    example: str


ADAPTERS: Registry[str, Adapter] = Registry("onnxcompress.engine.data.adapters", "data adapter")


def adapter(name: str, accepts: Callable[[Any], bool], example: str) -> Callable[[Open], Open]:
    """Register the decorated function as the adapter ``name``."""

    def register(function: Open) -> Open:
        ADAPTERS.add(name, Adapter(name, accepts, function, example))
        return function

    return register


def is_samples(spec: Any) -> bool:
    """Whether an object has the Samples protocol of :mod:`onnxcompress.core.task`."""
    return all(callable(getattr(spec, name, None)) for name in ("inputs", "labels", "__len__"))
