"""Data in a folder of .npy or .npz files, each one example or one batch, read when asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.adapters._base import Store, adapter
from onnxcompress.engine.data.columns import Column, LazyColumn
from onnxcompress.engine.data.feeding import TensorLike
from onnxcompress.engine.data.npyfile import open_npy, open_npz
from onnxcompress.engine.data.options import DataOptions
from onnxcompress.engine.data.spooling import batched


def array_files(folder: Path) -> list[Path]:
    """Return the .npy and .npz files of a folder, numbers in their names in the order of numbers."""
    files = [f for f in folder.iterdir() if f.suffix.lower() in (".npy", ".npz") and f.is_file()]
    return sorted(files, key=lambda f: natural(f.name))


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts ``a2`` before ``a10``."""
    return [(0, int(t), "") if t.isdigit() else (1, 0, t) for t in re.split(r"(\d+)", name) if t]


def _accepts(spec: Any) -> bool:
    return isinstance(spec, Path) and spec.is_dir() and bool(array_files(spec))


@adapter("folder", _accepts, "folder of .npy or .npz files")
def open_folder(spec: Path, inputs: Sequence[TensorLike], options: DataOptions) -> Store:
    """Open a folder of array files; their headers are read now, their numbers when asked for."""
    files = array_files(spec)
    suffixes = {f.suffix.lower() for f in files}
    if len(suffixes) > 1:
        raise DataError("the folder mixes .npy and .npz files", where=spec.name, fix="keep one kind")
    if suffixes == {".npy"} and len(inputs) != 1:
        raise DataError(
            ".npy files can feed only a model with one input",
            where=spec.name,
            why=f"this model has {len(inputs)}",
            fix="give .npz files keyed by input name",
        )

    def arrays(file: Path) -> dict[str, Array]:
        columns = open_npz(file) if file.suffix.lower() == ".npz" else {inputs[0].name: open_npy(file)}
        held = {key: column.take(np.arange(column.shape[0])) for key, column in columns.items()}
        return batched(held, inputs, options, f"{spec.name}/{file.name}")

    return Store(_columns(spec.name, files, arrays), spec.name)


def _columns(origin: str, files: list[Path], arrays: Callable[[Path], dict[str, Array]]) -> dict[str, Column]:
    """Return a column a key; raises DataError where a file differs from the first."""
    counts: dict[str, list[int]] = {}
    first: dict[str, Array] = {}
    widest: dict[str, np.dtype[np.generic]] = {}
    for file in files:
        found = arrays(file)
        first = first or found
        if set(found) != set(first):
            raise DataError(
                "the files differ in their keys", where=f"{origin}/{file.name}", why=f"{sorted(found)}"
            )
        for key, array in found.items():
            like = first[key]
            if array.shape[1:] != like.shape[1:] or array.dtype.kind != like.dtype.kind:
                raise DataError(
                    f"the examples of '{key}' differ",
                    where=f"{origin}/{file.name}",
                    why=f"shape {array.shape[1:]} and type {array.dtype}, "
                    f"before {like.shape[1:]} and {like.dtype}",
                    fix="give all examples the same shape",
                )
            counts.setdefault(key, []).append(len(array))
            widest[key] = np.result_type(widest.get(key, array.dtype), array.dtype)

    def reader(key: str) -> Callable[[int], Array]:
        return lambda number: arrays(files[number])[key]

    return {
        key: LazyColumn(counts[key], array.shape[1:], widest[key], reader(key))
        for key, array in first.items()
    }
