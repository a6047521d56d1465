"""Several methods on one command line: which option belongs to which ``--method``.

An option goes with the ``--method`` it is written behind, as in other programs that are told of several steps
in one line; what is written before the first one goes with all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from onnxcompress.core.errors import UsageError

METHODS = "methods"
"""Name of the parameter that ``--method`` fills."""

RULE = (
    "An option belongs to the --method it is written behind. Written before the first one, or where that "
    "method does not have it, it holds for every method that has it and was given none of its own "
    "(repeatable ones add up)."
)


class MethodOption(click.Option):
    """An option of methods, which may be given to each of several anew.

    Args:
        declarations: flags and name.
        repeatable: all its values count, not the last.
        joined: so do they, as one text with commas between them.
        attributes: as for any option.
    """

    def __init__(
        self, declarations: Sequence[str], repeatable: bool = False, joined: bool = False, **attributes: Any
    ) -> None:
        super().__init__(declarations, **{**attributes, "multiple": True, "default": None})
        self.repeatable, self.joined = repeatable, joined


@dataclass(frozen=True)
class Chain:
    """Methods in the order they run, and the options that were given.

    Attributes:
        names: as given to ``--method``.
        common: options for every method that has them.
        own: for each of ``names``, the options that were written behind it.
    """

    names: tuple[str, ...]
    common: Mapping[str, Any]
    own: tuple[Mapping[str, Any], ...]


class ChainCommand(click.Command):
    """A command whose options of methods arrive as one :class:`Chain`, its parameter ``chain``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words, and sort the options of methods by the ``--method`` before them."""
        order = self.make_parser(ctx).parse_args(args=[*args])[2]
        rest = super().parse_args(ctx, args)
        names = ctx.params.pop(METHODS)
        values = {p: ctx.params.pop(str(p.name)) for p in self.params if isinstance(p, MethodOption)}
        ctx.params["chain"] = _chain(names, order, values)
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then those of methods and how they are shared out."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        of_methods = [option for option in options if isinstance(option, MethodOption)]
        with formatter.section("Options"):
            formatter.write_dl(_explained([o for o in options if o not in of_methods], ctx))
        with formatter.section("Options of methods"):
            formatter.write_text(RULE)
            formatter.write_paragraph()
            formatter.write_dl(_explained(of_methods, ctx))


def _explained(options: Sequence[click.Option], ctx: click.Context) -> list[tuple[str, str]]:
    return [record for option in options if (record := option.get_help_record(ctx)) is not None]


def _chain(
    names: tuple[str, ...], order: list[click.Parameter], values: Mapping[MethodOption, tuple[Any, ...]]
) -> Chain:
    """Share out the values, those of each option in the order they were given.

    Args:
        names: of the methods.
        order: the parameters in the order they were given, each as often as it was.
        values: of each option.
    """
    left = {option: iter(given or ()) for option, given in values.items()}
    parts: list[list[tuple[MethodOption, Any]]] = [[]]
    for param in order:
        if param.name == METHODS and len(names) > 1:
            parts.append([])
        elif isinstance(param, MethodOption):
            parts[-1].append((param, next(left[param])))
    common, *own = (_kept(part) for part in parts)
    return Chain(names, common, tuple(own) or ({},) * len(names))


def _kept(given: list[tuple[MethodOption, Any]]) -> dict[str, Any]:
    """Return option name -> its value, the last or all of them; ``--sparsity S`` is ``keep = 1 − S``."""
    options: dict[str, Any] = {}
    for param, value in given:
        name = str(param.name)
        if param.repeatable:
            options[name] = (*options.get(name, ()), value)
        elif param.joined and name in options:
            options[name] = f"{options[name]},{value}"
        else:
            options[name] = value
    sparsity = options.pop("sparsity", None)
    if sparsity is not None:
        if "keep" in options:
            raise UsageError("--keep and --sparsity say the same", fix="give one of them")
        options["keep"] = round(1 - sparsity, 12)
    return options
