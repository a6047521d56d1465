"""Limits a user sets on a run; each is decided from what the run measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnxcompress.core.errors import GateError, UsageError
from onnxcompress.core.run import Gate, Latency, Run


@dataclass(frozen=True)
class Limit:
    """One kind of gate: its flag, what it compares, and whether the limit is an upper or a lower one.

    ``interval`` tells the 95 % interval of what was measured, where it is noisy; ``least`` and ``most`` are
    the smallest and the largest number that can be measured; ``lacking`` says why nothing may have been.
    """

    flag: str
    help: str
    upper: bool
    measure: Callable[[Run], float | None]
    interval: Callable[[Run], tuple[float, float] | None] = lambda run: None
    least: float = 0.0
    most: float = math.inf
    lacking: str = ""


def _size_ratio(run: Run) -> float | None:
    """Of several compared models, the worst counts, here and below."""
    first, *others = run.models or (None,)
    return max(m.size_bytes for m in others) / first.size_bytes if first and others else None


def _size_bytes(run: Run) -> float | None:
    return float(max(m.size_bytes for m in run.models[1:] or run.models)) if run.models else None


def _latency_ratio(run: Run) -> float | None:
    return max(r.ratio for r in run.benchmark.ratios) if run.benchmark and run.benchmark.ratios else None


def _latency_ratio_interval(run: Run) -> tuple[float, float] | None:
    if run.benchmark is None or not run.benchmark.ratios:
        return None
    worst = max(run.benchmark.ratios, key=lambda r: r.ratio)
    return worst.low, worst.high


def _slowest(run: Run) -> Latency | None:
    if run.benchmark is None or not run.benchmark.latencies:
        return None
    compared = run.benchmark.latencies[1:] or run.benchmark.latencies
    return max(compared, key=lambda latency: latency.median_ms)


def _latency_ms(run: Run) -> float | None:
    slowest = _slowest(run)
    return None if slowest is None else slowest.median_ms


def _latency_interval(run: Run) -> tuple[float, float] | None:
    """Return the interval between the medians of the least and the most disturbed parts of the samples.

    Samples come session by session, and those of one session share its luck: medians of parts that follow one
    another differ as much as sessions do.
    """
    slowest = _slowest(run)
    if slowest is None or run.benchmark is None or len(slowest.samples_ms) < 2 * PARTS:
        return None
    size = len(slowest.samples_ms) // PARTS
    medians = [statistics.median(slowest.samples_ms[i * size : (i + 1) * size]) for i in range(PARTS)]
    error = statistics.stdev(medians) / math.sqrt(PARTS)
    return slowest.median_ms - T975 * error, slowest.median_ms + T975 * error


def _macs(run: Run) -> float | None:
    counts = [m.macs for m in run.models[1:] or run.models]
    known = [c for c in counts if c is not None]
    return float(max(known)) if known and len(known) == len(counts) else None


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
        Limit(
            "max_latency_ratio",
            "compressed latency / original latency",
            True,
            _latency_ratio,
            _latency_ratio_interval,
        ),
        Limit(
            "max_latency_ms", "median latency of the compressed file", True, _latency_ms, _latency_interval
        ),
        Limit("max_macs", "multiply-accumulates of the compressed file", True, _macs),
        Limit("max_abs_err", "largest absolute output difference", True, _over_outputs("max_abs", max)),
        Limit(
            "max_rel_err", "largest relative l2 output difference", True, _over_outputs("relative_l2", max)
        ),
        Limit(
            "min_cosine",
            "smallest output cosine similarity",
            False,
            _over_outputs("cosine", min),
            least=-1.0,
            most=1.0,
        ),
        Limit(
            "min_agreement",
            "top-1 agreement, 0 to 1",
            False,
            _over_outputs("top1_agreement", min),
            most=1.0,
            lacking="no output could be compared as class scores or decisions",
        ),
        Limit("max_drop", "loss of the metric, in its own units", True, _drop, least=-math.inf),
    )
}

OF_OUTPUTS = ("max_abs_err", "max_rel_err", "min_cosine", "min_agreement")
"""Gates decided from the comparison of outputs."""

OF_LATENCY = ("max_latency_ratio", "max_latency_ms")
"""Gates decided from measured latency."""

PARTS = 4
"""Parts of the samples whose medians tell how much a median of latency is worth."""

T975 = 3.182
"""Student's t, 97.5 % quantile, of ``PARTS - 1`` degrees of freedom."""


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
        check_value(name, limit, told=flag)
        if name in OF_LATENCY and not benchmark:
            raise UsageError(f"{flag} needs the latency", why="measuring it is switched off")
        if LIMITS[name].measure is _drop and not data:
            raise UsageError(
                f"{flag} needs the accuracy",
                why="it is measured on --data with labels, of a compressed model or of two that are compared",
            )
        if name in OF_OUTPUTS and not outputs:
            raise UsageError(f"{flag} needs outputs", why="they are not compared")


def check_value(name: str, limit: object, *, told: str, where: str | None = None) -> None:
    """Raise UsageError for what is no finite number, or none that could ever be measured.

    Args:
        name: of the gate, one of ``LIMITS``.
        limit: what was given.
        told: what the user calls the gate.
        where: where it was given.
    """
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
        raise UsageError(f"{told} must be a finite number", where=where, why=f"found {limit!r}")
    least, most = LIMITS[name].least, LIMITS[name].most
    if not least <= limit <= most:
        possible = f"from {least:g} to {most:g}" if math.isfinite(most) else f"at least {least:g}"
        raise UsageError(f"{told} must be {possible}", where=where, why=f"found {limit:g}")


def require(run: Run, *, strict: bool = False) -> None:
    """Raise GateError, naming each limit that does not hold or that nothing was measured for.

    Args:
        run: the run, its gates decided.
        strict: limits that noise leaves undecided fail too.
    """
    broken = [_told(gate) for gate in run.gates if not gate.passed and (strict or not gate.unknown)]
    if broken:
        raise GateError("a gate failed", why="; ".join(broken))


def _told(gate: Gate) -> str:
    name = gate.name if gate.model is None else f"{gate.name} of {gate.model}"
    if gate.measured is None:
        lacking = LIMITS[gate.name].lacking if gate.name in LIMITS else ""
        return f"{name} was not measured" + (f": {lacking}" if lacking else "")
    told = f"{name} is {gate.measured:.6g}, the limit is {gate.limit:.6g}"
    if gate.unknown:
        told += f" and the noise larger than the margin ({gate.low:.4g} to {gate.high:.4g})"
    return told


def decide(run: Run, limits: Mapping[str, float], *, model: str | None = None) -> tuple[Gate, ...]:
    """Return one verdict a limit; what was not measured, or not closely enough, is undecided (None).

    Args:
        run: what was measured.
        limits: gate name -> limit.
        model: the model the limits are for, where they differ by model.
    """
    gates = []
    for name, limit in limits.items():
        kind = LIMITS[name]
        measured = kind.measure(run)
        low, high = kind.interval(run) or (None, None)
        if measured is None:
            gates.append(Gate(name, limit, None, None, model=model))
        else:
            passed = verdict(measured, limit, low, high, upper=kind.upper)
            gates.append(Gate(name, limit, measured, passed, low, high, model))
    return tuple(gates)


def verdict(
    measured: float, limit: float, low: float | None, high: float | None, *, upper: bool
) -> bool | None:
    """Return whether a limit holds; None where the interval of what was measured contains it.

    >>> verdict(0.8, 0.9, 0.7, 0.85, upper=True), verdict(0.8, 0.9, 0.7, 0.95, upper=True)
    (True, None)
    """
    if low is not None and high is not None and low < limit < high:
        return None
    return measured <= limit if upper else measured >= limit
