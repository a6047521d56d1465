"""Gates on the command line: limits, budgets of several models, a stored run that must not get worse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxcompress import gates

F = TypeVar("F", bound=Callable[..., Any])


def further(function: F) -> F:
    """Add the options beside the single limits."""
    for option in (
        click.option("--strict", is_flag=True, help="Gates that noise leaves undecided fail too."),
        click.option(
            "--max-regression",
            type=click.FloatRange(0),
            metavar="X",
            help="Share by which --baseline may be exceeded; latency: five times that. "
            f"[default: {gates.REGRESSION}]",
        ),
        click.option(
            "--baseline",
            type=click.Path(path_type=Path),
            metavar="RUN.json",
            help="Fail (exit 3) where this run is worse than a stored one.",
        ),
        click.option(
            "--budgets",
            type=click.Path(path_type=Path),
            metavar="FILE.toml",
            help="Limits of several models by file name; those of this one are taken.",
        ),
    ):
        function = option(function)
    return function


def demands(options: dict[str, Any]) -> gates.Demands:
    """Take the options of ``further`` out of a command's options and read their files.

    Raises:
        UsageError: a file cannot be read, or an option has nothing to apply to.
    """
    names = ("budgets", "baseline", "max_regression", "strict")
    limits = [name for name in gates.LIMITS if options[name] is not None]
    return gates.Demands.read(*(options.pop(name) for name in names), limits=limits)
