"""Data from a Python function: ``file.py:function`` yields dicts of arrays, keyed by input name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from onnxcompress.core.errors import DataError, OnnxCompressError, UsageError
from onnxcompress.engine.data.adapters._base import Store, adapter
from onnxcompress.engine.data.feeding import TensorLike
from onnxcompress.engine.data.options import DataOptions
from onnxcompress.engine.data.spooling import spool_items


def _accepts(spec: Any) -> bool:
    return isinstance(spec, str) and spec.rpartition(":")[0].endswith(".py")


@adapter("function", _accepts, "module.py:function")
def open_function(spec: str, inputs: Sequence[TensorLike], options: DataOptions) -> Store:
    """Call the function and write what it yields to temporary files.

    It yields dicts ``{input: array, "labels": …}`` or pairs ``(dict, labels)``, each an example or a batch.
    """
    file, _, name = spec.rpartition(":")
    function = load_function(Path(file), name, "data")
    try:
        items = function()
    except OnnxCompressError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(
            "the data function failed", where=spec, why=f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(items, dict):
        items = [items]
    if not isinstance(items, Iterable):
        raise DataError(
            "the data function returned nothing to iterate over", where=spec, why=type(items).__name__
        )
    return Store(spool_items(items, inputs, spec, options), spec)


def load_function(path: Path, name: str, noun: str) -> Callable[..., Any]:
    """Return the function ``name`` of the Python file; raises UsageError where it cannot be had."""
    where = f"{path}:{name}"
    if not path.is_file():
        raise UsageError(f"cannot load the {noun}", where=where, why=f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"onnxcompress_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling of workers in the user's file look it up here
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is written beside the user's file
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"cannot load the {noun}", where=where, why=f"{type(error).__name__}: {error}"
        ) from error
    finally:
        sys.dont_write_bytecode = kept
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"cannot load the {noun}", where=where, why=f"the file defines no function '{name}'")
    return found  # type: ignore[no-any-return]
