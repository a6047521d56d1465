"""Recipe: what to do to a model, as data; read from and written to TOML, or built from flags.

A recipe file::

    seed = 0

    [data]
    path = "mnist.npz"
    labels = "y_train"

    [[method]]
    name = "lc-quant"
    bits = 2
    exclude = ["conv1.*"]

Flags win over the file. The recipe that was really used, with every default filled in, is part of the
report, so that a run can be repeated.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from onnxcompress.core.errors import UsageError
from onnxcompress.methods._base import METHODS, Method


@dataclass(frozen=True)
class Recipe:
    """Which methods run, in order, on which data, from which seed.

    Attributes:
        methods: the methods with their options, run one after the other.
        data: options of the data (``path`` and the adapter's options), empty where none is given.
        seed: of every random choice.
    """

    methods: tuple[Method, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, every option with the value used; options that are None are left out."""
        return {
            "seed": self.seed,
            "data": _given(self.data),
            "method": [{"name": m.name, **_given(options_of(m))} for m in self.methods],
        }

    def save(self, path: Path) -> None:
        """Write the recipe as TOML."""
        import tomli_w  # noqa: PLC0415

        path.write_text(tomli_w.dumps(self.to_dict()))


def build(
    names: Iterable[str],
    options: Mapping[str, Any],
    *,
    data: Mapping[str, Any] | None = None,
    seed: int | None = None,
    file: Path | None = None,
) -> Recipe:
    """Return the recipe for these methods and options, on top of the one in ``file``.

    Args:
        names: methods to run; empty: those of the file.
        options: option name -> value; each goes to every method that has it. None means "not given".
        data: data options; None values mean "not given".
        seed: None: that of the file, or 0.
        file: TOML recipe to start from.

    Raises:
        UsageError: for a method or option that does not exist, or a file that cannot be read.
    """
    stored = _read(file) if file else {}
    given = {k: v for k, v in options.items() if v is not None}
    stored_methods = stored.get("method", [])
    names = list(names)
    if not names and not stored_methods:
        raise UsageError(
            "no method is chosen", fix=f"add --method with one of {', '.join(sorted(METHODS))}, or --recipe"
        )
    if names:
        by_name = {entry["name"]: entry for entry in stored_methods}
        entries = [by_name.get(name, {"name": name}) for name in names]
    else:
        entries = stored_methods
    _check_options_apply(given, [method_class(entry["name"]) for entry in entries])
    methods = tuple(_method(entry, given) for entry in entries)
    merged = {**stored.get("data", {}), **{k: v for k, v in (data or {}).items() if v is not None}}
    return Recipe(methods, merged, seed if seed is not None else stored.get("seed", 0))


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
    """Return a method's options by name."""
    return {f.name: f for f in dataclasses.fields(method) if f.init}  # type: ignore[arg-type]


def options_of(method: Method) -> dict[str, Any]:
    """Return the values of a method's options, by name."""
    return {name: getattr(method, name) for name in option_fields(type(method))}


def option_type(method: type[Method], name: str) -> Any:
    """Return the annotated type of a method's option."""
    return get_type_hints(method)[name]


def _method(entry: Mapping[str, Any], given: Mapping[str, Any]) -> Method:
    cls = method_class(entry["name"])
    fields = option_fields(cls)
    values = {k: v for k, v in entry.items() if k != "name"}
    unknown = set(values) - set(fields)
    if unknown:
        name = sorted(unknown)[0]
        raise UsageError(f"method {cls.name!r} has no option {name!r}", fix=_closest(name, fields))
    values.update({k: v for k, v in given.items() if k in fields})
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _check_options_apply(given: Mapping[str, Any], methods: list[type[Method]]) -> None:
    known = {name for method in methods for name in option_fields(method)}
    for name in given:
        if name not in known:
            flag = "--" + name.replace("_", "-")
            chosen = " and ".join(sorted({m.name for m in methods}))
            raise UsageError(f"{flag} is not an option of method {chosen}", fix=_closest(name, known))


def _closest(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"


def _read(path: Path) -> dict[str, Any]:
    try:
        recipe = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError("cannot read the recipe", where=str(path), why=error.strerror) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("the recipe is not valid TOML", where=str(path), why=str(error)) from error
    unknown = set(recipe) - {"seed", "data", "method"}
    if unknown:
        raise UsageError(
            f"the recipe has an unknown entry {sorted(unknown)[0]!r}",
            where=str(path),
            fix="it may have seed, [data] and [[method]]",
        )
    methods: Any = recipe.get("method", [])
    if not isinstance(methods, list) or not all(isinstance(m, dict) and "name" in m for m in methods):
        raise UsageError("every [[method]] of a recipe needs a name", where=str(path))
    return recipe


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None and turn tuples into lists, which is what TOML and JSON know."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items() if v is not None}
