"""The interleaving, on a machine whose clock the tests hold in their hands; no test measures real time."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxcompress import bench
from onnxcompress.core.errors import UsageError
from onnxcompress.engine.measures import stats


@dataclass
class Machine:
    """A computer on which time passes only when a model runs or a session opens."""

    now_ns: int = 0
    burst: Callable[[int], float] = lambda now_ns: 1.0
    opened: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    collecting: list[bool] = field(default_factory=list)

    def clock(self) -> bench.Clock:
        return bench.Clock("fake", lambda: self.now_ns, lambda: self.now_ns)

    def opener(
        self, name: str, call_ms: float, *, load_ms: float = 5.0, cold: float = 1.0, bias: float = 0.0
    ) -> bench.Opener:
        rng = np.random.default_rng(len(name))

        def open_() -> bench.Call:
            self.opened.append(name)
            self.now_ns += round(load_ms * 1e6)
            own = float(np.exp(rng.normal(0, bias)))

            def call() -> None:
                swapped = not self.ran or self.ran[-1] != name
                factor = own * self.burst(self.now_ns) * (cold if swapped else 1.0)
                self.now_ns += max(1, round(call_ms * 1e6 * factor))
                self.ran.append(name)
                self.collecting.append(gc.isenabled())

            return call

        return open_


def timed(machine: Machine, *openers: bench.Opener, **options: object) -> np.ndarray:
    rng = np.random.default_rng(0)
    return bench.interleave(openers, machine.clock(), rng, **{"budget_s": 10.0, **options})  # type: ignore[arg-type]


def test_times_per_call_are_exact_on_a_quiet_machine() -> None:
    machine = Machine()
    times = timed(machine, machine.opener("a", 0.5), machine.opener("bb", 2.0), sessions=3, rounds=4)
    assert times.shape == (3, 4, 2)
    np.testing.assert_allclose(times[:, :, 0], 0.5, rtol=1e-9)
    np.testing.assert_allclose(times[:, :, 1], 2.0, rtol=1e-9)


def test_every_session_is_fresh() -> None:
    machine = Machine()
    timed(machine, machine.opener("a", 1.0), machine.opener("b", 1.0), sessions=5, rounds=2)
    assert sorted(machine.opened) == ["a"] * 5 + ["b"] * 5


def test_each_model_is_opened_first_equally_often() -> None:
    machine = Machine()
    timed(machine, machine.opener("a", 1.0), machine.opener("b", 1.0), sessions=8, rounds=1)
    assert machine.opened[::2].count("a") == 4


def test_the_call_after_a_change_of_model_is_not_timed() -> None:
    machine = Machine()
    times = timed(
        machine, machine.opener("a", 1.0, cold=30.0), machine.opener("b", 1.0), sessions=2, rounds=20
    )
    np.testing.assert_allclose(times, 1.0, rtol=1e-9)


def test_a_burst_of_another_process_is_no_difference() -> None:
    # Everything takes four times as long every other second: unpaired means would be off by much.
    machine = Machine(burst=lambda now_ns: 4.0 if (now_ns // 10**9) % 2 else 1.0)
    times = timed(machine, machine.opener("a", 3.0, bias=0.005), machine.opener("bb", 3.0, bias=0.005))
    ratio = stats.latency_ratio("b", times, 1, np.random.default_rng(0), margin=0.02)
    assert ratio.verdict == stats.SAME
    assert times.max() > 3 * times.min()


@pytest.mark.parametrize("factor", [1.05, 0.9])
def test_a_planted_difference_is_seen_through_the_bursts(factor: float) -> None:
    machine = Machine(burst=lambda now_ns: 4.0 if (now_ns // 10**9) % 2 else 1.0)
    times = timed(
        machine, machine.opener("a", 3.0, bias=0.005), machine.opener("bb", 3.0 * factor, bias=0.005)
    )
    ratio = stats.latency_ratio("b", times, 1, np.random.default_rng(0), margin=0.02)
    assert ratio.verdict == (stats.SLOWER if factor > 1 else stats.FASTER)
    assert ratio.low < factor < ratio.high


def test_order_is_random_in_each_round() -> None:
    machine = Machine()
    timed(machine, machine.opener("a", 300.0), machine.opener("b", 300.0), sessions=2, rounds=30)
    # Calls of 300 ms are timed one by one without a warm-up between: the trace is the order.
    trace = machine.ran[2 : 2 + 60]
    firsts = trace[::2]
    assert 5 <= firsts.count("a") <= 25


def test_the_garbage_collector_rests_while_samples_are_taken() -> None:
    machine = Machine()
    assert gc.isenabled()
    timed(machine, machine.opener("a", 300.0), sessions=2, rounds=3)
    assert gc.isenabled()
    # Per session one call to warm up and three that are timed.
    assert machine.collecting == [True, False, False, False] * 2


def test_the_garbage_collector_is_back_after_a_failure() -> None:
    machine = Machine()

    def breaks() -> bench.Call:
        calls = iter(range(1000))

        def call() -> None:
            machine.now_ns += 10**8
            if next(calls) > 3:
                raise RuntimeError("out of memory")

        return call

    with pytest.raises(RuntimeError, match="out of memory"):
        timed(machine, breaks, sessions=2, rounds=20)
    assert gc.isenabled()


@pytest.mark.parametrize("call_ms", [0.01, 1.0, 40.0, 150.0])
def test_the_budget_is_kept(call_ms: float) -> None:
    machine = Machine()
    times = timed(machine, machine.opener("a", call_ms), machine.opener("b", call_ms), budget_s=10.0)
    assert machine.now_ns * 1e-9 <= 12.0
    assert times.shape[0] >= bench.LEAST_SESSIONS


def test_a_fast_model_gets_all_it_aims_at() -> None:
    machine = Machine()
    times = timed(machine, machine.opener("a", 0.02), machine.opener("b", 0.02))
    assert times.shape[:2] == (bench.SESSIONS, bench.ROUNDS)


def test_a_model_of_seconds_per_call_finishes_with_the_least() -> None:
    machine = Machine()
    times = timed(machine, machine.opener("a", 5000.0), machine.opener("b", 5000.0), budget_s=10.0)
    assert times.shape == (bench.LEAST_SESSIONS, bench.LEAST_ROUNDS, 2)
    assert len(machine.ran) == bench.LEAST_SESSIONS * 2 * (1 + bench.LEAST_ROUNDS)


def test_a_machine_that_slows_down_ends_early() -> None:
    machine = Machine(burst=lambda now_ns: 1.0 if now_ns < 2e9 else 20.0)
    times = timed(machine, machine.opener("a", 2.0), machine.opener("b", 2.0), budget_s=10.0)
    assert bench.LEAST_SESSIONS <= times.shape[0] < bench.SESSIONS


def test_fixed_numbers_of_sessions_and_rounds_are_obeyed() -> None:
    machine = Machine()
    times = timed(machine, machine.opener("a", 3000.0), sessions=2, rounds=7, budget_s=1.0)
    assert times.shape == (2, 7, 1)


def test_samples_last_several_ms_whatever_the_model() -> None:
    effort = bench.choose_effort([0.001, 1.0, 50.0], 0.1, 10.0)
    assert effort.calls == (6000, 6, 1)


def test_models_alike_get_as_many_calls_a_sample_however_badly_they_were_estimated() -> None:
    assert bench.choose_effort([1.0, 2.5], 0.1, 10.0).calls == (6, 6)
    # Each first call of a sample is slow; samples of fewer calls would say it more.
    machine = Machine(burst=lambda now_ns: 3.0 if now_ns < 3e8 else 1.0)
    times = timed(machine, machine.opener("a", 1.5), machine.opener("bb", 1.5, cold=3.0), rounds=10)
    assert stats.ratio_interval(times, 1, np.random.default_rng(0)).estimate == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("threads", "provider", "clock"),
    [
        (1, "CPUExecutionProvider", bench.THREAD_CPU),
        (2, "CPUExecutionProvider", bench.WALL),
        (0, "CPUExecutionProvider", bench.WALL),
        (1, "CUDAExecutionProvider", bench.WALL),
    ],
)
def test_cpu_time_only_where_all_work_is_in_the_calling_thread(
    threads: int, provider: str, clock: bench.Clock
) -> None:
    assert bench.clock_for(threads, provider) is clock


TINY = onnx.parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 17]>
    tiny (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"""
).SerializeToString()
FEEDS = {"x": np.ones((2, 4), np.float32)}


def test_benchmark_of_two_models() -> None:
    result = bench.compare_latency(
        {"a": TINY, "b": TINY}, FEEDS, sessions=2, rounds=3, memory=False, inputs="ones"
    )
    assert [latency.name for latency in result.latencies] == ["a", "b"]
    assert [ratio.name for ratio in result.ratios] == ["b"]
    assert (result.sessions, result.rounds, result.threads, result.inputs) == (2, 3, 1, "ones")
    for latency in result.latencies:
        assert len(latency.samples_ms) == 6
        assert 0 < latency.min_ms <= latency.median_ms <= latency.p90_ms <= latency.p99_ms
        assert latency.load_ms is latency.resident_bytes is latency.peak_bytes is None
    assert result.ratios[0].low <= result.ratios[0].ratio <= result.ratios[0].high


def test_one_model_alone_has_latency_and_memory_and_no_ratio() -> None:
    result = bench.compare_latency({"a": TINY}, FEEDS, sessions=1, rounds=2)
    assert result.ratios == ()
    assert result.latencies[0].load_ms is not None
    assert result.latencies[0].load_ms > 0
    assert result.latencies[0].peak_bytes is not None


@pytest.mark.parametrize(
    ("models", "feeds", "options", "message"),
    [
        ({}, FEEDS, {}, "no model"),
        ({"a": TINY, "b": TINY}, FEEDS, {"sessions": 1}, "at least 2"),
        ({"a": TINY}, FEEDS, {"rounds": 0}, "0 rounds"),
        ({"a": TINY}, {"z": FEEDS["x"]}, {}, "no data for input 'x'"),
    ],
)
def test_usage_errors(models: dict, feeds: dict, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench.compare_latency(models, feeds, **options)


def test_models_take_the_inputs_they_have() -> None:
    other = TINY.replace(b"\n\x01x", b"\n\x01z")
    feeds = {"x": np.ones((2, 4), np.float32), "z": np.ones((3, 4), np.float32)}
    result = bench.compare_latency({"a": TINY, "b": other}, feeds, sessions=2, rounds=1)
    assert len(result.latencies) == 2
