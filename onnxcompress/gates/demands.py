"""What a run must hold beside single limits: budgets of several models, a stored run, undecided gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxcompress.core.errors import UsageError
from onnxcompress.core.run import Run
from onnxcompress.gates.baseline import REGRESSION, against, read_run
from onnxcompress.gates.budgets import Budgets, read_budgets
from onnxcompress.gates.limits import check


@dataclass(frozen=True)
class Demands:
    """What was asked for beside single limits, read before anything is computed.

    Attributes:
        budgets: limits of several models.
        baseline: a stored run that must not get worse.
        share: by which it may.
        strict: gates that noise leaves undecided fail too.
    """

    budgets: Budgets | None = None
    baseline: Run | None = None
    share: float = REGRESSION
    strict: bool = False

    @classmethod
    def read(
        cls,
        budgets: str | Path | Budgets | None,
        baseline: str | Path | Run | None,
        share: float = REGRESSION,
        strict: bool = False,
    ) -> Demands:
        """Read the files; raises UsageError where one cannot be read or the share is negative."""
        if not share >= 0:
            raise UsageError("--max-regression must be 0 or more", why=f"found {share}")
        return cls(
            read_budgets(Path(budgets)) if isinstance(budgets, (str, Path)) else budgets,
            read_run(Path(baseline)) if isinstance(baseline, (str, Path)) else baseline,
            share,
            strict,
        )

    def limits(self, given: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
        """Return the limits of one model: those of its budget, over which single ones win."""
        return {**(self.budgets.limits(names) if self.budgets is not None else {}), **given}

    def check_each(self, models: Sequence[Path], *, benchmark: bool, data: bool) -> None:
        """Refuse, before anything is measured, budgets of compared models that could not be decided.

        Args:
            models: the first is what the others are compared with.
            benchmark: whether latency will be measured.
            data: whether accuracy will be.

        Raises:
            UsageError: names the limit and what it needs.
        """
        for model in models[1:] if self.budgets is not None else ():
            assert self.budgets is not None
            limits = self.budgets.of([str(model), model.name]) or {}
            try:
                check(limits, benchmark=benchmark, data=data)
            except UsageError as error:
                where = f"{self.budgets.where}, {model.name}"
                raise UsageError(error.what, where=where, why=error.why, fix=error.fix) from error

    def decided(self, run: Run, *, each: bool) -> Run:
        """Return the run with the baseline's verdicts, and with ``each`` those of every model's budget."""
        found = run.gates
        if each and self.budgets is not None:
            found += self.budgets.decide(run)
        if self.baseline is not None:
            found += against(run, self.baseline, share=self.share)
        return replace(run, gates=found)
