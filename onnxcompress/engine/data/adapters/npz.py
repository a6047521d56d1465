"""Data in one .npz archive: arrays keyed by input name, or x_train/y_train/x_test/y_test and their like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxcompress.engine.data.adapters._base import Store, adapter
from onnxcompress.engine.data.feeding import TensorLike
from onnxcompress.engine.data.npyfile import open_npz
from onnxcompress.engine.data.options import DataOptions


def _accepts(spec: Any) -> bool:
    return isinstance(spec, Path) and spec.suffix.lower() == ".npz" and not spec.is_dir()


@adapter("npz", _accepts, "data.npz")
def open_archive(spec: Path, inputs: Sequence[TensorLike], options: DataOptions) -> Store:
    """Open an .npz archive; every member is a column of its name."""
    return Store(open_npz(spec), spec.name)
