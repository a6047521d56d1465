"""Gates on the command line: limits, budgets of several models, a stored run that must not get worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxcompress import gates
from onnxcompress.core.run import Run

F = TypeVar("F", bound=Callable[..., Any])


def further(function: F) -> F:
    """Add the options beside the single limits."""
    for option in (
        click.option("--strict", is_flag=True, help="Gates that noise leaves undecided fail too."),
        click.option(
            "--max-regression",
            type=click.FloatRange(0),
            default=gates.REGRESSION,
            show_default=True,
            metavar="X",
            help="Share by which --baseline may be exceeded; latency: five times that.",
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


@dataclass(frozen=True)
class Demands:
    """What was asked for beside single limits, read before anything is computed."""

    budgets: gates.Budgets | None
    baseline: Run | None
    share: float
    strict: bool

    @classmethod
    def read(cls, options: dict[str, Any]) -> Demands:
        """Take the options of ``further`` out of a command's options and read their files.

        Raises:
            UsageError: a file cannot be read.
        """
        budgets, baseline = options.pop("budgets"), options.pop("baseline")
        return cls(
            None if budgets is None else gates.read_budgets(budgets),
            None if baseline is None else gates.read_run(baseline),
            options.pop("max_regression"),
            options.pop("strict"),
        )

    def limits(self, given: dict[str, float], names: Sequence[str]) -> dict[str, float]:
        """Return the limits of one model: those of its budget, over which single flags win."""
        return {**(self.budgets.limits(names) if self.budgets is not None else {}), **given}

    def decided(self, run: Run, *, each: bool) -> Run:
        """Return the run with the baseline's verdicts, and with ``each`` those of every model's budget."""
        found = run.gates
        if each and self.budgets is not None:
            found += self.budgets.decide(run)
        if self.baseline is not None:
            found += gates.against(run, self.baseline, share=self.share)
        return replace(run, gates=found)
