"""Whether a value, from a file, a command line or Python, is of the kind an annotation asks for."""

from __future__ import annotations

import numbers
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

MOST_THREADS = 1024
"""More are asked for by mistake: onnxruntime makes all of them for every session, which takes minutes."""


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value is of the annotated kind; whole numbers are numbers, True is none.

    >>> fits(2, float | None), fits(True, int), fits(["a"], tuple[str, ...])
    (True, False, True)
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or kind is type(None):
        return kind is Any or value is None
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if hasattr(value, "tolist"):  # an array, from Python
            value = value.tolist()
        if isinstance(value, (str, int, float)):  # one of several may stand alone
            return fits(value, arguments[0])
        return isinstance(value, (list, tuple)) and all(fits(v, arguments[0]) for v in value)
    if origin is Callable:
        return callable(value)
    if origin is dict:
        return isinstance(value, dict)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return isinstance(value, kind)


def kind_words(kind: Any) -> str:
    """Return an option's kind in words, "a whole number"."""
    words: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    origin, arguments = get_origin(kind), [a for a in get_args(kind) if a is not type(None)]
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is dict:
        return "a table"
    if origin is tuple:
        return "a list, each " + kind_words(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind_words(a) for a in arguments))
    return words.get(kind, "a function")
