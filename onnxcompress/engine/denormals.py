"""Denormal numbers: what they cost on an input. Below 1.2e-38 a processor may be a hundred times slower.

Trained networks on real inputs rarely meet them. On random inputs, activations behind many layers or in
front of a sigmoid may sink that far, and rounded weights may move them across the edge: then the latency of
the input is measured, not of the model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxcompress.engine.isolation import isolated
from onnxcompress.engine.runtime import open_session

FLUSH = {"session.set_denormal_as_zero": "1"}
"""onnxruntime's setting; only that of the first session of a process counts, hence the child process."""

NOTABLE = 1.3
"""From this ratio on denormal numbers matter: below, it may be the noise of a busy machine."""

BUDGET_S = 1.0
MOST_RUNS = 200


def flushed_ms(path: Path, feeds: Mapping[str, Any], *, threads: int = 1, timeout_s: float = 600) -> float:
    """Return the median ms of one inference with denormal numbers flushed to zero, in a process of its own.

    Args:
        path: the model.
        feeds: inputs.
        threads: onnxruntime's threads; with one, the CPU time of the thread counts.
        timeout_s: give up after this many seconds.

    Raises:
        UnsupportedError: the model does not load or run.
    """
    return isolated(_flushed, str(path), dict(feeds), threads, timeout_s=timeout_s)


def _flushed(path: str, feeds: Mapping[str, Any], threads: int) -> float:
    session = open_session(path, threads=threads, settings=FLUSH)
    call = session.bind({i.name: feeds[i.name] for i in session.inputs})
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    call()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or (len(times) < MOST_RUNS and time.perf_counter() - began < BUDGET_S):
        before = clock()
        call()
        times.append((clock() - before) * 1e-6)
    return statistics.median(times)
