"""Rules of a mixed compression: which weights, by name or operator, and what becomes of them.

As text, for the command line::

    fc1*=prune(count=5000)
    op:Conv=codebook(entries=4, granularity=channel)
    *=codebook(entries=2, joint=true)+prune(keep=0.01)

or as a table of a recipe: ``weights`` or ``operators``, ``compression`` with its settings, ``joint``, and
``plus``, a list of further compressions that are added.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from onnxcompress.core.errors import UsageError
from onnxcompress.core.kinds import fits, kind_words

if TYPE_CHECKING:
    from onnxcompress.encodings._base import Projection

OPERATOR = "op:"
"""What a selection by operator type begins with."""

EVERYTHING = "*"
"""The selection that comes after all others."""

_TERM = r"[a-z][a-z0-9-]*\s*(?:\([^()]*\))?"
_RULE = re.compile(rf"(?P<which>.+?)\s*=\s*(?P<sum>{_TERM}(?:\s*\+\s*{_TERM})*)\s*", re.DOTALL)
_SETTING = re.compile(r"""\s*(?P<name>[a-z][a-z0-9_-]*)\s*=\s*(?P<value>"[^"]*"|[^",]+?)\s*(?:,|$)""")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_PLAIN = (int, float, bool, str)
_OF_THE_WEIGHT = frozenset({"axis"})
"""Settings that are found from the weight."""

_EXAMPLE = 'write GLOB=COMPRESSION(setting=value), for example "fc1*=prune(keep=0.05)"'


@dataclass(frozen=True)
class Term:
    """One compression of a sum: its word in the registry and its settings."""

    word: str
    settings: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        told = ", ".join(f"{name}={_written(value)}" for name, value in self.settings)
        return f"{self.word}({told})" if told else self.word

    def projection(self) -> Projection:
        """Return Π, before anything of the weight is known; raises UsageError for settings that cannot be."""
        from onnxcompress.encodings._base import PROJECTIONS  # noqa: PLC0415

        if self.word not in PROJECTIONS:
            fix = _close(self.word, PROJECTIONS)
            raise UsageError(f"there is no compression {self.word!r}", fix=fix)
        known, given = settings_of(PROJECTIONS[self.word]), dict(self.settings)
        for name, value in given.items():
            if name not in known and not (name == "bits" and "entries" in known):
                raise UsageError(
                    f"compression {self.word!r} has no setting {name!r}", fix=_close(name, known)
                )
            kind = known.get(name, int)
            if not fits(value, kind) and fits(str(value), kind):  # scheme=2, a word that looks like a number
                given[name] = str(value)
            elif not fits(value, kind):
                raise UsageError(f"{name} of {self.word} must be {kind_words(kind)}", why=f"found {value!r}")
        if "bits" in given and "entries" in given:
            raise UsageError(f"bits and entries of {self.word} say the same", fix="give one of them")
        if "bits" in given and "bits" not in known:
            bits = given.pop("bits")
            if not 1 <= bits <= 8:
                raise UsageError(f"bits of {self.word} must be 1 to 8", why=f"found {bits}")
            given["entries"] = 2**bits
        if "group_size" in given:
            given.setdefault("granularity", "group")
        try:
            return PROJECTIONS[self.word](**given)
        except TypeError as error:  # a setting without a default is left out
            missing = str(error).rsplit(":", 1)[-1].strip().replace("'", "")
            raise UsageError(f"compression {self.word!r} needs {missing}") from error


@dataclass(frozen=True)
class Rule:
    """What becomes of the weights that one selection chooses.

    Attributes:
        which: globs on names of weights or of the nodes that use them, or operator types as ``op:Conv``.
        terms: one compression, or several that are added.
        joint: one Θ for all weights together (one codebook, one number of weights kept).
    """

    which: tuple[str, ...]
    terms: tuple[Term, ...]
    joint: bool = False

    def __str__(self) -> str:
        first, *others = self.terms
        settings = (*first.settings, *([("joint", True)] if self.joint else ()))
        return f"{'|'.join(self.which)}={'+'.join(map(str, (Term(first.word, settings), *others)))}"

    def projection(self) -> Projection:
        """Return Π of one weight, or jointly of all; raises UsageError where that cannot be."""
        from onnxcompress.encodings.additive import Sum  # noqa: PLC0415

        kinds = [term.projection() for term in self.terms]
        if len(kinds) > 1 and any(term.word == "rank" for term in self.terms):
            raise UsageError(
                f"learned ranks cannot be part of a sum in '{self}'",
                fix="use low-rank with the rank it is to have",
            )
        if self.joint:
            for term, kind in zip(self.terms, kinds, strict=True):
                if not kind.joint or getattr(kind, "granularity", "tensor") != "tensor":
                    raise UsageError(
                        f"{term.word} cannot be joint in the part '{self}'",
                        why="it compresses every weight, or every channel, by itself",
                    )
        return kinds[0] if len(kinds) == 1 else Sum(tuple(kinds))


def read_rule(given: str | Mapping[str, Any]) -> Rule:
    """Return the rule that a text or a table says.

    Raises:
        UsageError: it cannot be read, or names a compression or a setting that does not exist.
    """
    rule = _of_text(given) if isinstance(given, str) else _of_table(given)
    rule.projection()
    return rule


def settings_of(kind: type[Projection]) -> dict[str, Any]:
    """Return the settings of a compression that can be written down: name -> annotated kind."""
    hints = get_type_hints(kind)
    known = {f.name: hints[f.name] for f in fields(kind)}  # type: ignore[arg-type]
    return {name: hint for name, hint in known.items() if name not in _OF_THE_WEIGHT and _is_plain(hint)}


def _is_plain(hint: Any) -> bool:
    """Whether values of an annotation are single numbers, words or truth values."""
    arguments = [a for a in get_args(hint) if a is not type(None)]
    if not arguments:
        return hint in _PLAIN
    return all(isinstance(a, str) or _is_plain(a) for a in arguments)


def _of_text(text: str) -> Rule:
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"cannot read the part '{text}'", fix=_EXAMPLE)
    terms, joint = [], False
    for term in re.findall(_TERM, found["sum"]):
        word, _, rest = term.partition("(")
        settings = _settings(rest.strip().removesuffix(")"), text)
        joint = _joint(settings) or joint
        terms.append(Term(word.strip(), tuple(settings.items())))
    which = tuple(glob.strip() for glob in found["which"].split("|"))
    return Rule(which, tuple(terms), joint)


def _settings(text: str, whole: str) -> dict[str, Any]:
    """Read ``entries=2, joint=true``."""
    settings: dict[str, Any] = {}
    place = 0
    while place < len(text.rstrip()):
        found = _SETTING.match(text, place)
        if found is None:
            raise UsageError(f"cannot read '{text}' in the part '{whole}'", fix=_EXAMPLE)
        name, value = found["name"].replace("-", "_"), _value(found["value"])
        if name in settings:
            raise UsageError(
                f"the part '{whole}' gives {name} twice",
                why=f"found {_written(settings[name])} and {_written(value)}",
                fix="keep the one that is meant",
            )
        settings[name] = value
        place = found.end()
    return settings


def _value(text: str) -> Any:
    """Return a number (.1, too) or truth value as TOML writes them, anything else as the word it is."""
    try:
        return tomllib.loads(f"value = {'0' if re.fullmatch(r'[.][0-9]+', text) else ''}{text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _of_table(table: Mapping[str, Any]) -> Rule:
    rest = dict(table)
    weights, operators = (_list(rest.pop(key, ()), key) for key in ("weights", "operators"))
    plus = rest.pop("plus", [])
    if not isinstance(plus, list) or not all(isinstance(p, Mapping) for p in plus):
        raise UsageError("plus of a part must be a list of tables", why=f"found {plus!r}")
    terms, joint = [], False
    for one in (rest, *map(dict, plus)):
        word = one.pop("compression", None)
        if not isinstance(word, str):
            raise UsageError(
                "every part of a recipe needs a compression, which is a text", why=f"found {dict(table)!r}"
            )
        joint = _joint(one) or joint
        terms.append(Term(word, tuple(one.items())))
    which = (*weights, *(OPERATOR + name for name in operators)) or (EVERYTHING,)
    return Rule(which, tuple(terms), joint)


def _joint(settings: dict[str, Any]) -> bool:
    joint = settings.pop("joint", False)
    if not isinstance(joint, bool):
        raise UsageError("joint of a part must be true or false", why=f"found {joint!r}")
    return joint


def _list(given: Any, key: str) -> tuple[str, ...]:
    globs = [given] if isinstance(given, str) else given
    if not isinstance(globs, (list, tuple)) or not all(isinstance(g, str) and g for g in globs):
        raise UsageError(f"{key} of a part must be a text or a list of texts", why=f"found {given!r}")
    if any("|" in glob for glob in globs):
        raise UsageError(
            f"{key} of a part cannot hold '|'", fix="write ? for it, which any character matches"
        )
    return tuple(globs)


def _written(value: Any) -> str:
    """Return a setting as :func:`_value` reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and _value(value) == value else json.dumps(value)
    return repr(value)


def _close(word: str, known: Iterable[str]) -> str:
    names: Sequence[str] = sorted(known)
    close = difflib.get_close_matches(word, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
