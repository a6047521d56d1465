"""The interval must hold the truth as often as it says, on simulated and therefore known machines."""

import math

import numpy as np
import pytest

from onnxcompress.engine.measures import stats


def timings(
    rng: np.random.Generator, ratio: float, *, sessions: int = 8, rounds: int = 30, bias: float = 0.03
) -> np.ndarray:
    """Two models: a bias per session and model, a drift that hits both, and bursts of other processes."""
    drift = np.exp(np.cumsum(rng.normal(0, 0.02, (sessions, rounds, 1)), axis=1))
    own = np.exp(rng.normal(0, bias, (sessions, 1, 2)))
    noise = np.exp(rng.normal(0, 0.02, (sessions, rounds, 2)))
    bursts = 1 + rng.exponential(0.5, (sessions, rounds, 2)) * (rng.random((sessions, rounds, 2)) < 0.1)
    return 5.0 * np.array([1.0, ratio]) * drift * own * noise * bursts


def covered(interval: stats.Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize("sessions", [3, 8])
def test_interval_covers_the_true_ratio_95_times_in_100(sessions: int) -> None:
    rng = np.random.default_rng(1)
    hits = sum(
        covered(stats.ratio_interval(timings(rng, 1.3, sessions=sessions, rounds=10), 1, rng, draws=200), 1.3)
        for _ in range(300)
    )
    # 95 % of 300 is 285; four standard deviations of a fair interval below that is 270.
    assert hits >= 270


def test_rounds_alone_would_not_cover_it() -> None:
    # Negative control: the same estimator told that every round is a session of its own.
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        times = timings(rng, 1.3).reshape(-1, 1, 2)
        hits += covered(stats.ratio_interval(times, 1, rng, draws=200), 1.3)
    assert hits < 0.85 * 200


def test_a_versus_a_is_no_difference_and_a_planted_one_is_seen() -> None:
    rng = np.random.default_rng(3)
    found = {1.0: [], 1.05: [], 1 / 1.05: []}
    for ratio, verdicts in found.items():
        for _ in range(100):
            interval = stats.ratio_interval(timings(rng, ratio, bias=0.003), 1, rng, draws=200)
            verdicts.append(stats.verdict(interval, margin=0.02))
    assert found[1.0].count(stats.SAME) >= 95
    assert found[1.05].count(stats.SLOWER) >= 90
    assert found[1 / 1.05].count(stats.FASTER) >= 90


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (stats.Interval(0.96, 0.95, 0.97), stats.FASTER),
        (stats.Interval(1.05, 1.03, 1.07), stats.SLOWER),
        (stats.Interval(0.97, 0.95, 0.99), stats.SAME),
        (stats.Interval(1.04, 1.01, 1.07), stats.SAME),
        (stats.Interval(1.04, 0.99, 1.09), stats.SAME),
        (stats.Interval(0.8, 0.5, 1.0), stats.SAME),
        (stats.Interval(1.019, 1.015, 1.023), stats.SAME),
        (stats.Interval(1 / 1.019, 0.978, 0.99), stats.SAME),
        (stats.Interval(1.0, 1.0, 1.0), stats.SAME),
    ],
)
def test_verdict(interval: stats.Interval, expected: str) -> None:
    assert stats.verdict(interval, margin=0.02) == expected


def test_verdict_is_the_opposite_when_the_models_are_swapped() -> None:
    rng = np.random.default_rng(4)
    times = timings(rng, 1.2, bias=0.01)
    one = stats.latency_ratio("b", times, 1, np.random.default_rng(0), margin=0.02)
    other = stats.latency_ratio("a", times[:, :, ::-1], 1, np.random.default_rng(0), margin=0.02)
    assert (one.verdict, other.verdict) == (stats.SLOWER, stats.FASTER)
    np.testing.assert_allclose(one.ratio * other.ratio, 1, rtol=1e-12)


def test_one_slow_round_does_not_move_the_estimate() -> None:
    times = np.full((4, 10, 2), 2.0)
    times[1, 3, 1] = 200.0
    interval = stats.ratio_interval(times, 1, np.random.default_rng(0))
    assert interval == stats.Interval(1.0, 1.0, 1.0)


def test_of_two_sessions_of_one_round_the_interval_is_known() -> None:
    logs = np.log([1.1, 1.3])
    times = np.stack([np.ones((2, 1)), np.exp(logs)[:, None]], axis=2)
    found = stats.ratio_interval(times, 1, np.random.default_rng(0))
    # Medians of resamples are either end with probability 1/4; √(2/1) and t of one degree widen by 9.168.
    away = np.sqrt(2) * 12.706 / 1.959964 * (logs[1] - logs[0]) / 2
    expected = np.exp(logs.mean() + np.array([0, -away, away]))
    np.testing.assert_allclose([found.estimate, found.low, found.high], expected, rtol=1e-9)


@pytest.mark.parametrize("degrees", [1, 2, 7, 12, 13, 15, 20, 60, 500])
def test_student_quantiles(degrees: int) -> None:
    quantile = stats.student_t975(degrees)
    t = np.linspace(0, quantile, 200_001)
    log_gammas = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    density = np.exp(log_gammas - (degrees + 1) / 2 * np.log1p(t**2 / degrees)) / np.sqrt(degrees * np.pi)
    below = 0.5 + np.trapezoid(density, t)
    # The table has three decimals, the expansion four.
    assert below == pytest.approx(0.975, abs=(6e-4 if degrees <= 12 else 1e-4) * density[-1])


def test_quantiles_against_known_ones() -> None:
    q = stats.quantiles(np.arange(101.0).reshape(1, 101))
    assert (q.median_ms, q.p90_ms, q.p99_ms, q.min_ms) == (50, 90, 99, 0)
