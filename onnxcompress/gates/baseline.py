"""Baseline: a stored run that this one must not be worse than."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnxcompress.core.errors import UsageError
from onnxcompress.core.run import Gate, Run
from onnxcompress.gates.limits import LIMITS, verdict

REGRESSION = 0.02
"""Share by which a quantity may be worse than the baseline's; latency: five times that, it is noisy."""

LATENCY_FACTOR = 5.0

TINY_ERROR = 1e-6
"""Output errors up to this are rounding: no regression."""


@dataclass(frozen=True)
class Regression:
    """What is compared with a stored run.

    Attributes:
        gate: name in the report.
        of: what to read off a run, larger being worse.
        noisy: limit name whose interval tells how closely it was measured.
        share: how much worse it may be, in units of the share allowed.
        least: never a regression below this.
        absolute: the share is added and not multiplied: points of an accuracy.
        needed: where only the baseline has it, that is no pass.
        same_inputs: errors on random numbers say nothing of errors on data.
    """

    gate: str
    of: Callable[[Run], float | None]
    noisy: str | None = None
    share: float = 1.0
    least: float = 0.0
    absolute: bool = False
    needed: bool = False
    same_inputs: bool = False


def _loss(run: Run) -> float | None:
    """Return the share of examples that an accuracy is short of all."""
    accuracy = run.accuracy
    return 1 - accuracy.after if accuracy is not None and accuracy.higher_is_better else None


def _error(run: Run) -> float | None:
    accuracy = run.accuracy
    return accuracy.after if accuracy is not None and not accuracy.higher_is_better else None


REGRESSIONS = (
    Regression("baseline_bytes", LIMITS["max_bytes"].measure),
    Regression("baseline_macs", LIMITS["max_macs"].measure),
    Regression(
        "baseline_latency_ratio", LIMITS["max_latency_ratio"].measure, "max_latency_ratio", LATENCY_FACTOR
    ),
    Regression("baseline_rel_err", LIMITS["max_rel_err"].measure, least=TINY_ERROR, same_inputs=True),
    Regression("baseline_metric_loss", _loss, absolute=True, needed=True),
    Regression("baseline_metric_error", _error, needed=True),
)
"""Compared where both runs measured it, and an accuracy where the baseline did. Times of two machines are not
compared, ratios on one machine are; errors on random numbers and on data are not."""


def _inputs(run: Run) -> set[bool]:
    """Return whether outputs were compared on random inputs."""
    return {c.random_inputs for c in run.comparisons if c.reference == "original"}


def read_run(path: Path) -> Run:
    """Read a stored run; raises UsageError where it is none."""
    try:
        return Run.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("cannot read the baseline", where=str(path), why=error.strerror) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = str(error) if isinstance(error, ValueError) else "parts of a run are missing or of another kind"
        raise UsageError("the baseline is not a stored run", where=str(path), why=why) from error


def against(run: Run, baseline: Run, *, share: float = REGRESSION) -> tuple[Gate, ...]:
    """Return one verdict a quantity that both runs measured: no worse than before, by more than a share.

    Args:
        run: the new run.
        baseline: the stored one.
        share: how much worse it may be: 0.02 allows 2 % (2 points of an accuracy), and 10 % of latency.

    Raises:
        UsageError: the runs have nothing in common that could be compared, or other metrics.
    """
    then, now = baseline.accuracy, run.accuracy
    if then is not None and now is not None and then.metric != now.metric:
        raise UsageError(
            "the accuracy of the baseline is another one",
            why=f"{then.metric} then, {now.metric} now",
            fix="use the same --metric, or store a new baseline",
        )
    gates = []
    for kind in REGRESSIONS:
        before, after = kind.of(baseline), kind.of(run)
        if kind.same_inputs and _inputs(baseline) != _inputs(run):
            continue
        if before is None or (after is None and not kind.needed):
            continue
        allowed = share * kind.share * (1 if kind.absolute else before)
        limit = max(before + allowed, kind.least)
        if after is None:
            gates.append(Gate(kind.gate, limit, None, None))
            continue
        low, high = (LIMITS[kind.noisy].interval(run) if kind.noisy else None) or (None, None)
        gates.append(Gate(kind.gate, limit, after, verdict(after, limit, low, high, upper=True), low, high))
    if all(gate.measured is None for gate in gates):
        raise UsageError(
            "the baseline cannot be compared with this run",
            why=f"it is a run of {baseline.kind!r} and this one of {run.kind!r}, with nothing in common",
        )
    return tuple(gates)
