"""Gates: limits a user sets on a run; each is decided from what the run measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnxcompress.core.errors import GateError, UsageError
from onnxcompress.core.run import Gate, Run


@dataclass(frozen=True)
class Limit:
    """One kind of gate: its flag, what it compares, and whether the limit is an upper or a lower one."""

    flag: str
    help: str
    upper: bool
    measure: Callable[[Run], float | None]


def _size_ratio(run: Run) -> float | None:
    """Of several compared models, the worst counts, here and below."""
    first, *others = run.models or (None,)
    return max(m.size_bytes for m in others) / first.size_bytes if first and others else None


def _size_bytes(run: Run) -> float | None:
    return float(max(m.size_bytes for m in run.models[1:] or run.models)) if run.models else None


def _latency_ratio(run: Run) -> float | None:
    return max(r.ratio for r in run.benchmark.ratios) if run.benchmark and run.benchmark.ratios else None


def _drop(run: Run) -> float | None:
    if run.accuracy is None:
        return None
    change = run.accuracy.before - run.accuracy.after
    return change if run.accuracy.higher_is_better else -change


def _over_outputs(name: str, worst: Callable[..., float]) -> Callable[[Run], float | None]:
    def measure(run: Run) -> float | None:
        original = [c for c in run.comparisons if c.reference == "original"]
        outputs = [o for c in original for o in c.outputs]
        if any(o.problem is not None for o in outputs):
            return math.nan  # broken, not different: its numbers are missing, and others must not hide that
        values = [getattr(o, name) for o in outputs if getattr(o, name) is not None]
        # max and min pass over a NaN or not by the order of values; an output that is none must fail.
        return math.nan if any(map(math.isnan, values)) else float(worst(values)) if values else None

    return measure


LIMITS: Mapping[str, Limit] = {
    limit.flag: limit
    for limit in (
        Limit("max_size_ratio", "compressed bytes / original bytes", True, _size_ratio),
        Limit("max_bytes", "bytes of the compressed file", True, _size_bytes),
        Limit("max_latency_ratio", "compressed latency / original latency", True, _latency_ratio),
        Limit("max_abs_err", "largest absolute output difference", True, _over_outputs("max_abs", max)),
        Limit("min_cosine", "smallest output cosine similarity", False, _over_outputs("cosine", min)),
        Limit("min_agreement", "top-1 agreement, 0 to 1", False, _over_outputs("top1_agreement", min)),
        Limit("max_drop", "loss of the metric, in its own units", True, _drop),
    )
}

OF_OUTPUTS = ("max_abs_err", "min_cosine", "min_agreement")
"""Gates decided from the comparison of outputs."""


def check(limits: Mapping[str, float], *, benchmark: bool, outputs: bool = True, data: bool = True) -> None:
    """Raise UsageError now for a limit that is none, or that this run could not measure.

    Args:
        limits: gate name -> limit.
        benchmark: whether latency will be measured.
        outputs: whether outputs will be compared.
        data: whether there is data, which accuracy needs.
    """
    for name, limit in limits.items():
        flag = "--" + name.replace("_", "-")
        if name not in LIMITS:
            raise UsageError(f"there is no gate {name!r}", fix=f"there are {', '.join(LIMITS)}")
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or math.isnan(limit):
            raise UsageError(f"{flag} must be a number", why=f"found {limit!r}")
        if LIMITS[name].measure is _latency_ratio and not benchmark:
            raise UsageError(f"{flag} needs the latency", why="measuring it is switched off")
        if LIMITS[name].measure is _drop and not data:
            raise UsageError(
                f"{flag} needs the accuracy",
                why="it is measured when a model is compressed and --data holds labels",
            )
        if name in OF_OUTPUTS and not outputs:
            raise UsageError(f"{flag} needs outputs", why="they are not compared")


def require(run: Run) -> None:
    """Raise GateError, naming each limit that does not hold or that nothing was measured for."""
    broken = [
        f"{gate.name} was not measured"
        if gate.measured is None
        else f"{gate.name} is {gate.measured:.6g}, the limit is {gate.limit:.6g}"
        for gate in run.gates
        if not gate.passed
    ]
    if broken:
        raise GateError("a gate failed", why="; ".join(broken))


def decide(run: Run, limits: Mapping[str, float]) -> tuple[Gate, ...]:
    """Return one verdict a limit; what was not measured is undecided (``passed`` is None)."""
    gates = []
    for name, limit in limits.items():
        kind = LIMITS[name]
        measured = kind.measure(run)
        passed = None if measured is None else (measured <= limit if kind.upper else measured >= limit)
        gates.append(Gate(name, limit, measured, passed))
    return tuple(gates)
