"""Statistics of interleaved timings: ratio with an interval that keeps its promise, and the verdict.

Timings are an array ``(sessions, rounds, models)`` of milliseconds per call; model 0 is the reference. In one
round all models are timed once, so a burst or a drift of the machine hits them alike: the logarithm of their
ratio in that round is the observation. Each fresh session brings a bias of its own (where its pages came to
lie), so rounds of one session are not independent of each other: sessions are resampled as clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.run import LatencyRatio

FASTER, SLOWER, SAME = "faster", "slower", "no measurable difference"

MARGIN = 0.02
"""Differences up to this are not claimed: caches and page placement alone produce them."""

# Student's t, 97.5 % quantile, for 1 to 12 degrees of freedom.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
_Z975 = 1.959964


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


def student_t975(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t: a table up to 12 degrees, then its expansion in 1/degrees.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, eq. 26.7.5 (three terms: error < 1e-4).
    """
    if degrees <= len(_T975):
        return _T975[degrees - 1]
    z = _Z975
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def ratio_interval(times_ms: Array, model: int, rng: np.random.Generator, *, draws: int = 1000) -> Interval:
    """Return the latency of ``model`` divided by that of model 0, with its 95 % interval.

    The estimate is the pooled median of the paired log-ratios. The interval is a cluster bootstrap over
    sessions and, within each, rounds. With few clusters the bootstrap is known to be too narrow, by
    ``sqrt((S-1)/S)`` in spread and by the normal quantile where Student's is due (Cameron, Gelbach and
    Miller 2008, section III); deviations are widened by both.

    Args:
        times_ms: ``(sessions, rounds, models)``, all positive, at least two sessions.
        model: index of the model to compare with model 0.
        rng: of the resampling.
        draws: bootstrap resamples.
    """
    sessions, rounds = times_ms.shape[:2]
    assert sessions >= 2, "one session says nothing of how much sessions differ"
    logs = np.log(times_ms[:, :, model] / times_ms[:, :, 0])
    estimate = float(np.median(logs))
    clusters = rng.integers(0, sessions, (draws, sessions, 1))
    resampled = logs[clusters, rng.integers(0, rounds, (draws, sessions, rounds))]
    medians = np.median(resampled.reshape(draws, -1), axis=1)
    widen = math.sqrt(sessions / (sessions - 1)) * student_t975(sessions - 1) / _Z975
    low, high = estimate + widen * (np.quantile(medians, (0.025, 0.975)) - estimate)
    # The median of few rounds can sit at an end of what resampling reaches; the estimate is always inside.
    low, high = min(float(low), estimate), max(float(high), estimate)
    return Interval(math.exp(estimate), math.exp(low), math.exp(high))


def verdict(interval: Interval, *, margin: float) -> str:
    """Return ``"faster"`` or ``"slower"`` where the whole interval is beyond the margin around 1.

    >>> verdict(Interval(0.5, 0.45, 0.55), margin=0.02)
    'faster'
    >>> verdict(Interval(1.3, 0.9, 1.8), margin=0.02)
    'no measurable difference'
    >>> verdict(Interval(1.03, 1.015, 1.045), margin=0.02)
    'no measurable difference'
    """
    if interval.high < 1 / (1 + margin):
        return FASTER
    if interval.low > 1 + margin:
        return SLOWER
    return SAME


def latency_ratio(
    name: str, times_ms: Array, model: int, rng: np.random.Generator, *, margin: float
) -> LatencyRatio:
    """Return ratio, interval and verdict of one model against model 0, as the report holds them."""
    interval = ratio_interval(times_ms, model, rng)
    return LatencyRatio(
        name, interval.estimate, interval.low, interval.high, verdict(interval, margin=margin)
    )


@dataclass(frozen=True)
class Quantiles:
    """Summary of one model's times per call, in ms."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float


def quantiles(times_ms: Array) -> Quantiles:
    """Return median, 90 % and 99 % quantile and minimum of times per call, of any shape."""
    median, p90, p99 = (float(q) for q in np.quantile(times_ms, (0.5, 0.9, 0.99)))
    return Quantiles(median, p90, p99, float(times_ms.min()))
