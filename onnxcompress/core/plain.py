"""Dataclasses of plain values to what JSON knows, and back."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

_SCALARS: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}


def plain(value: Any) -> Any:
    """Turn tuples into lists, keys into strings, and numbers JSON has no word for into None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def typed(kind: Any, value: Any) -> Any:
    """Rebuild a dataclass, tuple, dict or optional from plain JSON values by its annotation.

    Raises:
        TypeError: a number, text or flag is of another kind.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if value is None or kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(
            **{
                f.name: typed(hints[f.name], value[f.name])
                for f in dataclasses.fields(kind)
                if f.name in value
            }
        )
    if origin in (typing.Union, types.UnionType):
        possible = [a for a in arguments if a is not type(None)]
        return typed(possible[0], value) if len(possible) == 1 or possible[0] not in _SCALARS else value
    if origin is tuple:
        return tuple(typed(arguments[0], v) for v in value)
    if origin is dict:
        return {k: typed(arguments[1], v) for k, v in value.items()}
    if kind in _SCALARS and (
        not isinstance(value, _SCALARS[kind]) or isinstance(value, bool) != (kind is bool)
    ):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
