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

import contextlib
import math
import numbers
import tomllib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from onnxcompress.core.errors import OutputError, UsageError
from onnxcompress.core.kinds import fits, kind_words
from onnxcompress.methods._base import METHODS, Method
from onnxcompress.methods._options import (
    EXCLUDE_FILE,
    PLACE,
    closest,
    flag,
    method_class,
    option_fields,
    options_of,
    shared_out,
)

TASK_OPTIONS: Mapping[str, Any] = {
    "limit": int,
    "val": float,
    "loss": str | Callable[..., Any],
    "metric": str | Callable[..., Any],
}
"""Data options that say what to do with the data, and their kinds; the others say how to read it."""


@dataclass(frozen=True)
class Recipe:
    """Which methods run, in order, on which data, from which seed.

    Attributes:
        methods: the methods with their options, run one after the other.
        data: options of the data (``path`` and the adapter's options, or ``random``: random numbers instead),
            empty where none is given.
        seed: of every random choice.
        lists: for each method, the files of names that are part of its ``exclude`` -> these names.
    """

    methods: tuple[Method, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    lists: tuple[Mapping[str, tuple[str, ...]], ...] = field(default=(), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, every option with the value used; options that are None are left out."""
        return {
            "seed": self.seed,
            "data": _given(self.data),
            "method": [{"name": m.name, **_given(options_of(m))} for m in self.methods],
        }

    def save(self, path: Path) -> None:
        """Write the recipe as TOML; raises OutputError where it cannot be written."""
        import tomli_w  # noqa: PLC0415

        try:
            path.write_text(tomli_w.dumps(self.to_dict()), encoding="utf-8")
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise OutputError("cannot write the recipe", where=str(path), why=why) from error


def build(
    names: Iterable[str],
    options: Mapping[str, Any],
    *,
    own: Sequence[Mapping[str, Any]] = (),
    data: Mapping[str, Any] | None = None,
    seed: int | None = None,
    file: Path | None = None,
) -> Recipe:
    """Return the recipe for these methods and options, on top of the one in ``file``.

    Args:
        names: methods to run; empty: those of the file.
        options: option name -> value; each goes to every method that has it, of an option that takes other
            words in other methods to those that know the word. None means "not given".
        own: for each of ``names``, options that are this method's alone. What it cannot take is as if it were
            one of ``options``, for the methods that can and were given no value of their own.
        data: data options; None values mean "not given".
        seed: None: that of the file, or 0.
        file: TOML recipe to start from.

    Raises:
        UsageError: for a method or option that does not exist, an option left for no method, a file that
            cannot be read.
    """
    stored = _read(file) if file else {}
    stored_methods = stored.get("method", [])
    names = list(names)
    if not names and not stored_methods:
        raise UsageError(
            "no method is chosen", fix=f"add --method with one of {', '.join(sorted(METHODS))}, or --recipe"
        )
    entries = [_stored_entry(stored_methods, name, file) for name in names] if names else stored_methods
    classes = [method_class(entry["name"]) for entry in entries]
    meant = shared_out(_told(options), [_told(given) for given in own] or [{}] * len(entries), classes)
    folder = file.parent if file is not None else Path()
    methods, lists = [], []
    for number, (entry, (given, shared)) in enumerate(zip(entries, meant, strict=True), start=1):
        with _where(file, number, entry["name"]):
            values, flags, read = _listed(entry, given, folder)
            methods.append(_among_others(values, flags, shared=len(entries) > 1 and shared))
            lists.append(read)
    asked = {k: v for k, v in (data or {}).items() if v is not None}
    replaced = ("path", "random") if "path" in asked or "random" in asked else ()
    merged = {**{k: v for k, v in stored.get("data", {}).items() if k not in replaced}, **asked}
    for name, value in merged.items():
        _check_data_option(name, value)
    seed = seed if seed is not None else stored.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UsageError("the seed must be a whole number from 0 on", why=f"found {seed!r}")
    return Recipe(tuple(methods), merged, seed, tuple(lists))


def _stored_entry(stored: Sequence[Mapping[str, Any]], name: str, file: Path | None) -> Mapping[str, Any]:
    """Return what a recipe says of a method that is named beside it; nothing where it does not know it.

    Raises:
        UsageError: it has several of that name, of which none is the one that is meant.
    """
    numbers = [number for number, entry in enumerate(stored, start=1) if entry["name"] == name]
    if len(numbers) > 1:
        told = " and ".join(map(str, numbers))
        raise UsageError(
            f"--method {name} names one of several of the recipe",
            where=str(file),
            why=f"methods {told} are of that name",
            fix="leave --method out to run the recipe's methods, or keep the one that is meant",
        )
    return stored[numbers[0] - 1] if numbers else {"name": name}


@contextlib.contextmanager
def _where(file: Path | None, number: int, name: str) -> Iterator[None]:
    """Say which method of which recipe cannot be made."""
    try:
        yield
    except UsageError as error:
        if file is None or error.where is not None:
            raise
        where = f"{file}, method {number}, {name}"
        raise UsageError(error.what, where=where, why=error.why, fix=error.fix) from error


def excluded_in(path: Path) -> tuple[str, ...]:
    """Return the names of layers to leave alone that a file lists, as ``onnxcompress sensitivity`` writes it.

    Raises:
        UsageError: the file cannot be read, or has no list of names.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("cannot read the list of layers", where=str(path), why=error.strerror) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError("the list of layers is not valid TOML", where=str(path), why=str(error)) from error
    names = content.get("exclude")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            "the list of layers needs an entry exclude", where=str(path), fix='write exclude = ["layer", …]'
        )
    return tuple(names)


def _listed(
    entry: Mapping[str, Any], given: Mapping[str, Any], folder: Path
) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, tuple[str, ...]]]:
    """Return a method's entry and flags, exclude of both with what files list, and file -> names.

    Paths are the recipe's.
    """
    values, flags = dict(entry), dict(given)
    own = values.pop(EXCLUDE_FILE, None)
    if own is not None and not isinstance(own, str):
        raise UsageError("exclude_file of a recipe must be a text", why=f"found {own!r}")
    files = [folder / own] if own is not None else []
    if EXCLUDE_FILE in flags:
        files.append(flags.pop(EXCLUDE_FILE))
    if not files:
        return values, flags, {}
    if "exclude" not in option_fields(method_class(entry["name"])):
        raise UsageError(f"method {entry['name']!r} has no option 'exclude_file'")
    before = flags.pop("exclude", values.get("exclude", ()))
    lists = {str(path): excluded_in(path) for path in files}
    names = [name for listed in lists.values() for name in listed]
    values["exclude"] = [*([before] if isinstance(before, str) else before), *names]
    return values, flags, lists


def _method(entry: Mapping[str, Any], given: Mapping[str, Any]) -> Method:
    cls = method_class(entry["name"])
    fields = option_fields(cls)
    values = {k: v for k, v in entry.items() if k != "name"}
    unknown = set(values) - set(fields)
    if unknown:
        name = sorted(unknown)[0]
        raise UsageError(f"method {cls.name!r} has no option {name!r}", fix=closest(name, fields))
    values.update({k: v for k, v in given.items() if k in fields})
    kinds = get_type_hints(cls)
    for option, value in values.items():
        _check_type(option, value, kinds[option], fields[option].metadata)
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _among_others(entry: Mapping[str, Any], given: Mapping[str, Any], *, shared: bool) -> Method:
    """Return the method; where it cannot be for options others got too, say how to give it others."""
    try:
        return _method(entry, given)
    except UsageError as error:
        if not shared:
            raise
        raise UsageError(
            f"method {entry['name']!r}: {error.what}",
            where=error.where,
            why=error.why,
            fix=f"{error.fix}; {PLACE}" if error.fix else PLACE,
        ) from error


def _check_data_option(name: str, value: Any) -> None:
    """Raise UsageError for a data option that does not exist, or a value of the wrong kind."""
    from onnxcompress.engine.data.options import DataOptions  # noqa: PLC0415  (--help needs no data)

    kinds = {**TASK_OPTIONS, **get_type_hints(DataOptions)}
    if name == "path":
        return
    if name == "random":
        _check_type("random_data", value, bool, {})
        return
    if name not in kinds:
        raise UsageError(f"there is no data option {name!r}", fix=closest(name, ("path", "random", *kinds)))
    if name == "image_size" and isinstance(value, int):
        return
    _check_type(name, value, kinds[name], {})


def _check_type(name: str, value: Any, kind: Any, metadata: Mapping[str, Any]) -> None:
    """Raise UsageError where a value, from a file or from Python, is not of the kind an option takes."""
    for number in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise UsageError(f"{flag(name)} must be a finite number", why=f"found {number}")
    if not fits(value, kind):
        words = f"one of {', '.join(metadata['choices'])}" if "choices" in metadata else kind_words(kind)
        raise UsageError(f"{flag(name)} must be {words}", why=f"found {value!r}")
    most = metadata.get("most")
    if most is not None and value is not None and value > most:
        raise UsageError(f"{flag(name)} must be at most {most:g}", why=f"found {value}")


def _read(path: Path) -> dict[str, Any]:
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
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
    if not isinstance(recipe.get("data", {}), dict):
        raise UsageError(
            "[data] of a recipe must be a table", where=str(path), why=f"found {recipe['data']!r}"
        )
    given: Any = recipe.get("data", {}).get("path", "")
    if not isinstance(given, str):
        raise UsageError("path in [data] of a recipe must be a text", where=str(path), why=f"found {given!r}")
    if not isinstance(methods, list) or not all(
        isinstance(m, dict) and isinstance(m.get("name"), str) for m in methods
    ):
        raise UsageError("every [[method]] of a recipe needs a name, which is a text", where=str(path))
    return recipe


def _told(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None and turn the rest into what TOML and JSON know."""
    return {k: _plain(v) for k, v in options.items() if v is not None}


def _plain(value: Any) -> Any:
    """Return a value as TOML and JSON know it; what a call from Python brought in memory by its kind.

    >>> _plain((1, 2)), _plain(Path("a.npz")), _plain(iter([]))
    ([1, 2], 'a.npz', 'list_iterator in memory')
    """
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, (list, tuple)) and all(isinstance(v, (str, bool, int, float)) for v in value):
        return list(value)
    if isinstance(value, types.FunctionType):
        return f"{value.__module__}:{value.__qualname__}"
    return f"{type(value).__name__} in memory"
