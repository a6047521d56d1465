"""Checkpoints: the state of a run in one file that is whole at every moment.

The file is written beside the old one, flushed to the disk and renamed over it, so that a process killed at
any moment leaves the old or the new state, never half of one. It is an .npz archive of arrays and one member
of JSON; nothing is pickled. A fingerprint (model, options, data) is kept in it: a run with another one
is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import OutputError, UsageError

NAME = "checkpoint.npz"
_FORMAT = "onnxcompress.checkpoint/4"
_JSON = "json"


class Checkpoint:
    """The checkpoint of one run.

    Args:
        folder: where it is kept; made when first written to.
        fingerprint: what a resumed run must have in common with the one interrupted: names and plain values.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self._fingerprint: dict[str, Any] = json.loads(json.dumps(dict(fingerprint), default=str))

    def save(self, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> None:
        """Replace the checkpoint; raises OutputError where the folder cannot be written to.

        Args:
            arrays: numbers by name; names may hold slashes.
            values: plain values (JSON).
        """
        held = {name: np.asarray(array) for name, array in arrays.items()}
        header = {
            "format": _FORMAT,
            "fingerprint": self._fingerprint,
            "values": dict(values),
            "types": {name: array.dtype.name for name, array in held.items()},
        }
        text = np.frombuffer(json.dumps(header).encode(), np.uint8)
        beside = self.path.with_name(f".{NAME}.{os.getpid()}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                np.savez(file, **{_JSON: text}, **{f"a/{n}": _plain(a) for n, a in held.items()})  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise OutputError(
                "cannot write the checkpoint", where=str(self.path), why=error.strerror or str(error)
            ) from None
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """Return (arrays, values), None where nothing was saved yet.

        Raises UsageError where the file is no checkpoint, or is one of a run with other options.
        """
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                header = json.loads(archive[_JSON].tobytes())
                if header["format"] != _FORMAT:
                    raise ValueError(f"format {header['format']}")
                self._compare(header["fingerprint"])
                arrays = {
                    name: _typed(archive[f"a/{name}"], dtype) for name, dtype in header["types"].items()
                }
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise UsageError(
                "cannot resume", where=str(self.path), why=f"not a checkpoint ({error})", fix="delete it"
            ) from None
        return arrays, header["values"]

    def _compare(self, stored: Mapping[str, Any]) -> None:
        stored, own = _flat(stored), _flat(self._fingerprint)
        differing = [name for name in {**stored, **own} if stored.get(name) != own.get(name)]
        if differing:
            words = ", ".join(
                f"{n}: {_short(stored.get(n))} then, {_short(own.get(n))} now" for n in differing
            )
            raise UsageError(
                "cannot resume a run with other options",
                where=str(self.path),
                why=words,
                fix="use the same options, or another folder",
            )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method, which is one entry, as entries of their own: what differs is seen."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= value if isinstance(value, dict) else {name: value}
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _plain(array: Array) -> Array:
    """Return an array of a type NumPy can store; others (bfloat16) as their bytes."""
    return array if array.dtype.kind in "biufc" else array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _typed(array: Array, dtype: str) -> Array:
    if array.dtype.name == dtype:
        return array
    return array.view(np.dtype(getattr(ml_dtypes, dtype)))


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; Windows cannot open a folder and needs no such thing."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
