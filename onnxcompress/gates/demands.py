"""What a run must hold beside single limits: budgets of several models, a stored run, undecided gates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
        share: float | None = None,
        strict: bool = False,
        *,
        limits: Collection[str] = (),
    ) -> Demands:
        """Read the files.

        Args:
            budgets: limits of several models, or their file.
            baseline: a stored run, or its file.
            share: by which the baseline may be exceeded; None: ``REGRESSION``.
            strict: gates that noise leaves undecided fail too.
            limits: names of the single limits that were given.

        Raises:
            UsageError: a file cannot be read, the share is negative, or an option has nothing to apply to.
        """
        if share is not None and not share >= 0:
            raise UsageError("--max-regression must be 0 or more", why=f"found {share}")
        if share is not None and baseline is None:
            raise UsageError(
                "--max-regression says by how much --baseline may be exceeded",
                why="none is given",
                fix="name a stored run with --baseline, or leave it out",
            )
        if strict and budgets is None and baseline is None and not limits:
            raise UsageError(
                "--strict is for gates that noise leaves undecided",
                why="no gate is given",
                fix="set a limit such as --max-latency-ratio, --budgets or --baseline, or leave it out",
            )
        return cls(
            read_budgets(Path(budgets)) if isinstance(budgets, (str, Path)) else budgets,
            read_run(Path(baseline)) if isinstance(baseline, (str, Path)) else baseline,
            REGRESSION if share is None else share,
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

    @property
    def held_out(self) -> bool:
        """Whether the baseline was measured on validation examples, held out from training."""
        if self.baseline is None:
            return False
        accuracy = self.baseline.accuracy
        return self.baseline.kind == "compress" if accuracy is None else accuracy.split == "validation"

    def decided(self, run: Run, *, each: bool) -> Run:
        """Return the run with the baseline's verdicts, and with ``each`` those of every model's budget."""
        found = run.gates
        if each and self.budgets is not None:
            found += self.budgets.decide(run)
        if self.baseline is not None:
            found += against(run, self.baseline, share=self.share)
        return replace(run, gates=found)
