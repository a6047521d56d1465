"""What options methods have, and which of several methods an option is for."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_type_hints

from onnxcompress.core.errors import UsageError
from onnxcompress.core.kinds import fits
from onnxcompress.methods._base import METHODS, Method

EXCLUDE_FILE = "exclude_file"
"""Option of every method with ``exclude``: a file that lists more of it."""

PLACE = "an option is for one method alone where it is written behind that --method, or in a recipe"
"""What helps where an option that several methods got is not right for all of them."""


def method_class(name: str) -> type[Method]:
    """Return the method of that name; raises UsageError naming the ones that exist."""
    try:
        return METHODS[name]
    except KeyError:
        known = sorted(METHODS)
        close = difflib.get_close_matches(name, known, 1)
        raise UsageError(
            f"there is no method {name!r}",
            fix=f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}",
        ) from None


def option_fields(method: type[Method]) -> dict[str, dataclasses.Field[Any]]:
    """Return a method's options by name: its own first, then those that a family of methods shares."""
    fields = {f.name: f for f in dataclasses.fields(method) if f.init}  # type: ignore[arg-type]
    own = [name for cls in method.__mro__ for name in vars(cls).get("__annotations__", ()) if name in fields]
    return {name: fields[name] for name in dict.fromkeys(own)}


def options_of(method: Method) -> dict[str, Any]:
    """Return the values of a method's options, by name."""
    return {name: getattr(method, name) for name in option_fields(type(method))}


def option_type(method: type[Method], name: str) -> Any:
    """Return the annotated type of a method's option."""
    return get_type_hints(method)[name]


def shared_out(
    common: Mapping[str, Any], own: Sequence[Mapping[str, Any]], methods: Sequence[type[Method]]
) -> list[tuple[dict[str, Any], bool]]:
    """Return for each method the options meant for it, and whether some of them are meant for others too.

    Args:
        common: for every method that takes them: --granularity weight is for one of two that have it.
        own: for each method, options for it alone where it takes them, else as if they were ``common``.
        methods: one or more.

    Raises:
        UsageError: an option that no method has, or that is left for none.
    """
    _check_options_apply([*common, *(name for given in own for name in given)], methods)
    meant, shared = _dealt(common, own, methods)
    among = [False] * len(methods)
    for name, value in shared.items():
        having = [i for i, method in enumerate(methods) if _has(method, name)]
        takers = [i for i in having if _takes(methods[i], name, value)] or having
        free = [i for i in takers if name not in meant[i] or isinstance(value, tuple)]
        if not free:
            raise UsageError(
                f"one {flag(name)} is too many", why="every method that has it was given its own", fix=PLACE
            )
        for i in free:
            meant[i][name] = (*value, *meant[i].get(name, ())) if isinstance(value, tuple) else value
            among[i] = True
    return list(zip(meant, among, strict=True))


def _dealt(
    common: Mapping[str, Any], own: Sequence[Mapping[str, Any]], methods: Sequence[type[Method]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the options that are each method's alone, and those for all, what is misplaced among them."""
    alone: list[dict[str, Any]] = []
    shared = dict(common)
    for method, given in zip(methods, own, strict=True):
        alone.append({})
        for name, value in given.items():
            others = any(_takes(other, name, value) for other in methods)
            if _takes(method, name, value) or (_has(method, name) and not others):
                alone[-1][name] = value
            elif isinstance(value, tuple):
                shared[name] = (*shared.get(name, ()), *value)
            elif name in shared:
                raise UsageError(f"{flag(name)} is given twice for the same methods", fix=PLACE)
            else:
                shared[name] = value
    return alone, shared


def _has(method: type[Method], name: str) -> bool:
    return ("exclude" if name == EXCLUDE_FILE else name) in option_fields(method)


def _takes(method: type[Method], name: str, value: Any) -> bool:
    """Whether a method has an option, and the value is of a kind it understands."""
    return _has(method, name) and (name == EXCLUDE_FILE or fits(value, option_type(method, name)))


def _check_options_apply(names: Iterable[str], methods: Sequence[type[Method]]) -> None:
    for name in names:
        if not any(_has(method, name) for method in methods):
            chosen = " and ".join(sorted({m.name for m in methods}))
            known = {option for method in methods for option in option_fields(method)}
            others = [other for other in sorted(METHODS) if _has(METHODS[other], name)]
            fix = f"it is one of {', '.join(others)}" if others else closest(name, known)
            raise UsageError(f"{flag(name)} is not an option of method {chosen}", fix=fix)


def flag(name: str) -> str:
    """Return an option as it is written on the command line."""
    return "--" + name.replace("_", "-")


def closest(name: str, known: Iterable[str]) -> str:
    """Return advice for a name that is not one of ``known``."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
