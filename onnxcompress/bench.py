"""Latency, interleaved: models timed in turn, in random order, over fresh sessions, compared in pairs."""

from __future__ import annotations

import gc
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UsageError
from onnxcompress.core.run import Benchmark, Latency
from onnxcompress.core.task import Feeds
from onnxcompress.engine import runtime
from onnxcompress.engine.denormals import flushed_ms
from onnxcompress.engine.measures import stats

Call = Callable[[], None]
"""One inference, everything bound."""

Opener = Callable[[], Call]
"""Opens a fresh session and returns its inference."""

BUDGET_S = 10.0
"""Seconds that timing takes in total, unless told otherwise."""

SAMPLE_MS = 6.0
WARM_MS = 100.0
ALIKE = 4.0
"""Models whose estimates are within this factor get the same number of calls a sample."""

REWARM_BELOW_MS = 50.0
"""A call this slow refills the caches within itself: no untimed run after a change of model."""

SESSIONS, ROUNDS = 8, 60
"""Aimed at; reduced to what the time budget allows, never below the least."""

LEAST_SESSIONS, LEAST_ROUNDS = 4, 2


@dataclass(frozen=True)
class Clock:
    """What the time of a call is read from.

    Attributes:
        name: in words, for the report.
        now_ns: the clock samples are read from.
        wall_ns: the clock the time budget is held against.
    """

    name: str
    now_ns: Callable[[], int]
    wall_ns: Callable[[], int] = time.perf_counter_ns


THREAD_CPU = Clock("CPU time of the calling thread", time.thread_time_ns)
WALL = Clock("wall clock", time.perf_counter_ns)


def clock_for(threads: int, provider: str) -> Clock:
    """Return the thread's CPU time where it is valid, wall clock otherwise.

    CPU time does not count what other processes steal, but it sees only the calling thread: onnxruntime
    computes there only on the CPU and with one thread. Some systems count it in ticks too coarse for this.
    """
    fine = time.get_clock_info("thread_time").resolution <= 1e-5
    return THREAD_CPU if threads == 1 and provider == "CPUExecutionProvider" and fine else WALL


@dataclass(frozen=True)
class Effort:
    """How much is measured: ``calls`` per sample of each model."""

    sessions: int
    rounds: int
    calls: tuple[int, ...]


def compare_latency(
    models: Mapping[str, Path | bytes],
    feeds: Feeds,
    *,
    threads: int = 1,
    sessions: int | None = None,
    rounds: int | None = None,
    budget_s: float = BUDGET_S,
    margin: float = stats.MARGIN,
    seed: int = 0,
    provider: str = "CPUExecutionProvider",
    memory: bool = True,
    denormals: bool = False,
    inputs: str = "",
) -> Benchmark:
    """Time models against the first of them; one model alone is timed without a comparison.

    Args:
        models: name -> file, or serialised model; the first is the reference.
        feeds: inputs of one call, the same for all models; a model takes those it has.
        threads: onnxruntime's threads inside an operator.
        sessions: fresh sessions of each model; None: what the budget allows, 4 to 8.
        rounds: samples per session of each model; None: what the budget allows, 2 to 60.
        budget_s: seconds the timing may take in total; a model of seconds per call takes longer, because
            fewer than 4 sessions of 2 rounds carry no interval.
        margin: an interval that reaches into this fraction around 1 is no measurable difference.
        seed: of the order of models and of the bootstrap.
        provider: onnxruntime's execution provider.
        memory: measure load time and memory, each model in a process of its own.
        denormals: measure with denormal numbers flushed to zero too, each model in a process of its own.
        inputs: where the inputs come from, for the report.

    Raises:
        UsageError: no model, fewer than 2 sessions for a comparison, or an input is missing.
        UnsupportedError: onnxruntime does not load a model.
    """
    if not models:
        raise UsageError("no model to time", fix="name at least one .onnx file")
    if sessions is not None and sessions < (2 if len(models) > 1 else 1):
        raise UsageError(
            f"cannot compare latencies over {sessions} session(s)",
            why="each session has a bias of its own",
            fix="use at least 2",
        )
    if rounds is not None and rounds < 1:
        raise UsageError("cannot measure latency in 0 rounds", fix="use at least 1")
    clock = clock_for(threads, provider)
    taken: dict[str, Feeds] = {}
    openers = [
        _opener(name, model, feeds, taken, threads=threads, provider=provider)
        for name, model in models.items()
    ]
    rng = np.random.default_rng(seed)
    times_ms = interleave(openers, clock, rng, budget_s=budget_s, sessions=sessions, rounds=rounds)
    probes = [_probe(model, taken[name]) if memory else None for name, model in models.items()]
    latencies = []
    for index, (name, probe) in enumerate(zip(models, probes, strict=True)):
        samples = times_ms[:, :, index]
        q = stats.quantiles(samples)
        latencies.append(
            Latency(
                name=name,
                median_ms=q.median_ms,
                p90_ms=q.p90_ms,
                p99_ms=q.p99_ms,
                min_ms=q.min_ms,
                load_ms=probe.load_ms if probe else None,
                resident_bytes=probe.resident_bytes if probe else None,
                peak_bytes=probe.peak_bytes if probe else None,
                samples_ms=tuple(float(t) for t in samples.ravel()),
                flushed_ms=_flushed(models[name], taken[name], threads) if denormals else None,
            )
        )
    ratios = tuple(
        stats.latency_ratio(name, times_ms, index, rng, margin=margin)
        for index, name in enumerate(models)
        if index > 0
    )
    return Benchmark(
        latencies=tuple(latencies),
        ratios=ratios,
        threads=threads,
        provider=provider,
        clock=clock.name,
        rounds=times_ms.shape[1],
        sessions=times_ms.shape[0],
        inputs=inputs,
        margin=margin,
    )


def interleave(
    openers: Sequence[Opener],
    clock: Clock,
    rng: np.random.Generator,
    *,
    budget_s: float,
    sessions: int | None = None,
    rounds: int | None = None,
) -> Array:
    """Return ms per call ``(sessions, rounds, models)``: fresh sessions, in each rounds in random order.

    A sample is the mean of as many calls as fill 6 ms. After a change of model one call is not timed, for the
    caches. The garbage collector is off while samples are taken.
    """
    started = clock.wall_ns()
    times: list[Array] = []
    effort: Effort | None = None
    # Where a session's pages lie may make it slower by a third: each model is opened first equally often.
    order = rng.permutation(len(openers))
    while effort is None or len(times) < effort.sessions:
        if effort is not None and sessions is None and len(times) >= LEAST_SESSIONS:
            # The machine may have become slower since the effort was chosen.
            elapsed_s = (clock.wall_ns() - started) * 1e-9
            if elapsed_s * (1 + 1 / len(times)) > 1.5 * budget_s:
                break
        opened = clock.wall_ns()
        calls: dict[int, Call] = {}
        for index in np.roll(order, len(times)):
            calls[int(index)] = openers[index]()
        estimates_ms = [_warm(calls[index], clock) for index in range(len(openers))]
        if effort is None:
            overhead_s = (clock.wall_ns() - opened) * 1e-9
            effort = choose_effort(estimates_ms, overhead_s, budget_s, sessions=sessions, rounds=rounds)
        times.append(_session(calls, effort, estimates_ms, clock, rng))
        # Pages freed last are handed out first. Freed in reverse, those of the model opened first go to the
        # one that is opened first next time; otherwise each model would get its own, good or bad, again.
        for index in reversed(list(calls)):
            del calls[index]
    return np.stack(times)


def choose_effort(
    estimates_ms: Sequence[float],
    overhead_s: float,
    budget_s: float,
    *,
    sessions: int | None = None,
    rounds: int | None = None,
) -> Effort:
    """Return what fits the budget: sessions may take half of it to open, rounds get what is left.

    Args:
        estimates_ms: time of one warm call of each model.
        overhead_s: time to open and warm one session of each.
        budget_s: time for everything.
        sessions: fixed by the user.
        rounds: fixed by the user.
    """
    calls = tuple(max(1, math.ceil(SAMPLE_MS / max(t, 1e-6))) for t in estimates_ms)
    if max(estimates_ms) <= ALIKE * min(estimates_ms):
        # Caches are still filling in the first calls of a sample: more calls would make a model look faster.
        calls = (max(calls),) * len(calls)
    round_s = 1e-3 * sum(
        t * (n + (1 if t < REWARM_BELOW_MS else 0)) for t, n in zip(estimates_ms, calls, strict=True)
    )
    if sessions is None:
        affordable = int(0.5 * budget_s / max(overhead_s, 1e-9))
        affordable -= affordable % len(estimates_ms)  # each model is opened first equally often
        sessions = min(SESSIONS, max(LEAST_SESSIONS, affordable))
    if rounds is None:
        left_s = max(0.0, budget_s - sessions * overhead_s)
        rounds = min(ROUNDS, max(LEAST_ROUNDS, int(left_s / (sessions * max(round_s, 1e-9)))))
    return Effort(sessions, rounds, calls)


def _warm(call: Call, clock: Clock) -> float:
    """Call until the session is warm and return the median ms of one call, by the wall clock."""
    took_ns: list[int] = []
    started = clock.wall_ns()
    spent_ns = 0
    while spent_ns < WARM_MS * 1e6:
        before = clock.wall_ns()
        call()
        now = clock.wall_ns()
        took_ns.append(now - before)
        spent_ns = now - started
    return statistics.median(took_ns) * 1e-6


def _session(
    calls: Mapping[int, Call],
    effort: Effort,
    estimates_ms: Sequence[float],
    clock: Clock,
    rng: np.random.Generator,
) -> Array:
    """Return ms per call ``(rounds, models)`` of one set of sessions."""
    times_ms = np.empty((effort.rounds, len(calls)))
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(effort.rounds):
            for index in rng.permutation(len(calls)):
                call, count = calls[int(index)], effort.calls[index]
                if estimates_ms[index] < REWARM_BELOW_MS:
                    call()
                before = clock.now_ns()
                for _ in range(count):
                    call()
                times_ms[turn, index] = max(1, clock.now_ns() - before) / count * 1e-6
    finally:
        if collecting:
            gc.enable()
    return times_ms


def _opener(
    name: str,
    model: Path | bytes,
    feeds: Feeds,
    taken: dict[str, Feeds],
    *,
    threads: int,
    provider: str,
) -> Opener:
    """Return what opens a fresh session with its inputs bound, and notes in ``taken`` which it has."""

    def open_() -> Call:
        session = runtime.open_session(model, threads=threads, provider=provider)
        missing = [i.name for i in session.inputs if i.name not in feeds]
        if missing:
            raise UsageError(
                f"no data for input {', '.join(map(repr, missing))}",
                where=name,
                why=f"the inputs given are {', '.join(map(repr, feeds)) or 'none'}",
            )
        taken[name] = {i.name: feeds[i.name] for i in session.inputs}
        return session.bind(taken[name])

    return open_


def _flushed(model: Path | bytes, feeds: Feeds, threads: int) -> float:
    if isinstance(model, Path):
        return flushed_ms(model, feeds, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        return flushed_ms(path, feeds, threads=threads)


def _probe(model: Path | bytes, feeds: Feeds) -> runtime.Probe:
    """Measure load time and memory of a file, or of a serialised model through a temporary one."""
    if isinstance(model, Path):
        return runtime.probe(model, feeds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        return runtime.probe(path, feeds)
