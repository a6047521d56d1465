"""Gates: limits a user sets on a run; each is decided from what the run measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnxcompress.core.run import Gate, Run


@dataclass(frozen=True)
class Limit:
    """One kind of gate: its flag, what it compares, and whether the limit is an upper or a lower one."""

    flag: str
    help: str
    upper: bool
    measure: Callable[[Run], float | None]


def _size_ratio(run: Run) -> float | None:
    return run.models[1].size_bytes / run.models[0].size_bytes if len(run.models) > 1 else None


def _size_bytes(run: Run) -> float | None:
    return float(run.models[-1].size_bytes) if run.models else None


def _latency_ratio(run: Run) -> float | None:
    return run.benchmark.ratios[-1].ratio if run.benchmark and run.benchmark.ratios else None


def _drop(run: Run) -> float | None:
    if run.accuracy is None:
        return None
    change = run.accuracy.before - run.accuracy.after
    return change if run.accuracy.higher_is_better else -change


def _over_outputs(name: str, worst: Callable[..., float]) -> Callable[[Run], float | None]:
    def measure(run: Run) -> float | None:
        original = [c for c in run.comparisons if c.reference == "original"]
        values = [getattr(o, name) for c in original for o in c.outputs if getattr(o, name) is not None]
        return float(worst(values)) if values else None

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


def decide(run: Run, limits: Mapping[str, float]) -> tuple[Gate, ...]:
    """Return one verdict a limit; what was not measured is undecided (``passed`` is None)."""
    gates = []
    for name, limit in limits.items():
        kind = LIMITS[name]
        measured = kind.measure(run)
        passed = None if measured is None else (measured <= limit if kind.upper else measured >= limit)
        gates.append(Gate(name, limit, measured, passed))
    return tuple(gates)
