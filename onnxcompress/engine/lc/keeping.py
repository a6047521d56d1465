"""Encodings as arrays and plain values, for checkpoints, and back: nothing is pickled."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401  np.dtype knows "bfloat16" then
import numpy as np

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.plain import plain, typed
from onnxcompress.encodings._base import ENCODINGS


def taken_apart(encodings: Mapping[str, Encoding]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of encodings, and a description (JSON) that says where they belong."""
    arrays: dict[str, Array] = {}
    return arrays, {name: _described(encoding, name, arrays) for name, encoding in encodings.items()}


def put_together(arrays: Mapping[str, Array], description: Mapping[str, Any]) -> dict[str, Encoding]:
    """Return the encodings that :func:`taken_apart` took apart."""
    return {name: _made(one, arrays) for name, one in description.items()}


def _described(encoding: Encoding, path: str, arrays: dict[str, Array]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(encoding):  # type: ignore[arg-type]
        value, place = getattr(encoding, field.name), f"{path}/{field.name}"
        if isinstance(value, np.ndarray):
            arrays[place] = value
            fields[field.name] = {"array": place}
        elif isinstance(value, tuple) and any(isinstance(v, Encoding) for v in value):
            fields[field.name] = {
                "encodings": [_described(v, f"{place}/{k}", arrays) for k, v in enumerate(value)]
            }
        elif isinstance(value, np.dtype):
            fields[field.name] = {"dtype": value.name}
        else:
            nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
            known = dataclasses.asdict(value) if nested else value
            fields[field.name] = {"value": plain(known)}
    return {"kind": encoding.kind, "fields": fields}


def _made(described: Mapping[str, Any], arrays: Mapping[str, Array]) -> Encoding:
    kind = ENCODINGS[described["kind"]]
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, field in described["fields"].items():
        if "array" in field:
            values[name] = arrays[field["array"]]
        elif "encodings" in field:
            values[name] = tuple(_made(one, arrays) for one in field["encodings"])
        elif "dtype" in field:
            values[name] = np.dtype(field["dtype"])
        else:
            values[name] = typed(hints[name], field["value"])
    return kind(**values)
