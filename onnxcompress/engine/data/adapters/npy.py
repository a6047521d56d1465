"""Data in one .npy file, for a model with one input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.adapters._base import Store, adapter
from onnxcompress.engine.data.feeding import TensorLike
from onnxcompress.engine.data.npyfile import open_npy
from onnxcompress.engine.data.options import DataOptions


def _accepts(spec: Any) -> bool:
    return isinstance(spec, Path) and spec.suffix.lower() == ".npy" and not spec.is_dir()


@adapter("npy", _accepts, "data.npy")
def open_array(spec: Path, inputs: Sequence[TensorLike], options: DataOptions) -> Store:
    """Open a .npy file as the only input's examples."""
    if len(inputs) != 1:
        raise DataError(
            "a .npy file can feed only a model with one input",
            where=spec.name,
            why=f"this model has {len(inputs)}: {', '.join(i.name for i in inputs)}",
            fix="give an .npz file keyed by input name",
        )
    return Store({"": open_npy(spec)}, spec.name)
