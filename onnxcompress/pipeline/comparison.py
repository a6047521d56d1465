"""Comparison: outputs, size and latency of models side by side; the first is the reference."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onnxcompress import gates, verify
from onnxcompress.core.errors import UsageError
from onnxcompress.core.model import LEAST_IR_VERSION
from onnxcompress.core.run import SCHEMA, Accuracy, Run
from onnxcompress.core.task import Task
from onnxcompress.core.version import VERSION
from onnxcompress.engine.measures import facts
from onnxcompress.engine.measures.operator_times import operator_times
from onnxcompress.engine.runtime import TensorInfo
from onnxcompress.pipeline import _data as datasets
from onnxcompress.pipeline import _original as originals
from onnxcompress.pipeline._compared import compare_outputs, compared_inputs
from onnxcompress.pipeline._original import LATENCY_BUDGET_S
from onnxcompress.pipeline._told import labels_doubtful


def compare(
    sources: Sequence[Path],
    *,
    data: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    threads: int = 1,
    outputs: bool = True,
    benchmark: bool = True,
    budget_s: float = LATENCY_BUDGET_S,
    provider: str = "CPUExecutionProvider",
    limits: Mapping[str, float] | None = None,
    command: tuple[str, ...] | None = None,
    hold_out: bool = False,
) -> Run:
    """Compare models with the first one: outputs, size, latency, and of two their accuracy.

    Args:
        sources: files; the first is the reference.
        data: data options (``path`` …); outputs and accuracy are compared on its test or validation split, on
            all of it where it has none. None: the outputs are compared on seeded random inputs.
        input_shapes: concrete shapes of inputs with symbolic dimensions.
        seed: of random inputs and of the order of measurements.
        threads: onnxruntime's threads.
        outputs: compare outputs.
        benchmark: measure latency.
        budget_s: time for measuring latency.
        provider: onnxruntime's execution provider that latency is measured on.
        limits: gates.
        command: the command line, for the report.
        hold_out: measure on the validation examples that a compression would hold out.

    Raises:
        UsageError: a model asks for other inputs than the first.
    """
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    gates.check(limits or {}, benchmark=benchmark, outputs=outputs, data=bool(data) and len(sources) == 2)
    if data and data.get("path") is None:
        flag = "--" + next(iter(data)).replace("_", "-")
        raise UsageError(f"{flag} says what to do with --data", why="none is given")
    opened = [originals.open_original(source, threads) for source in sources]
    given = datasets.read(opened[0], data if data and outputs else {})
    opened = [datasets.with_sizes(one, input_shapes or {}, given) for one in opened]
    first = opened[0]
    names = _distinct_names(sources)
    _check_inputs(names, opened)
    compared = single = accuracy = None
    if outputs:
        opening = datasets.data_task if hold_out else datasets.untrained_task
        task = opening(first, given, seed) if data else None
        opened = [datasets.with_sizes_of_task(one, task, input_shapes or {}) for one in opened]
        first = opened[0]
        compared = compared_inputs(first, task, seed)
        single = compared.single
        accuracy = _accuracy(opened, task, threads)
    comparisons = []
    for name, other in zip(names[1:], opened[1:], strict=True):
        if compared is not None:
            found = compare_outputs(
                first.file, other.file, compared, threads, same_types=False, decided=first.decided
            )
            comparisons.append(replace(found, candidate=name))
    timed = dict(zip(names, sources, strict=True))
    timings = (
        originals.latency(first, timed, seed, threads, budget_s, single=single, provider=provider)
        if benchmark
        else None
    )
    profile = None
    if benchmark and outputs:
        feed = single if single is not None else originals.random_single(first, seed)
        profile = operator_times(timed, feed, threads=threads, provider=provider)
    run = Run(
        schema=SCHEMA,
        version=VERSION,
        kind="compare" if outputs else "bench",
        command=command,
        recipe={"seed": seed, "data": dict(data or {})},
        seed=seed,
        started=started,
        duration_s=0.0,
        environment=facts.environment(),
        models=tuple(
            facts.model_facts(o.file, o.model, o.shapes, name=name)
            for name, o in zip(names, opened, strict=True)
        ),
        comparisons=tuple(comparisons),
        accuracy=accuracy,
        warnings=(
            *(said for c in comparisons for said in (*verify.lifeless(c), *verify.forgotten(c))),
            *labels_doubtful(accuracy),
            *originals.latency_warnings(timings),
            *_overridable(names, opened),
        ),
        benchmark=timings,
        operators=profile,
    )
    run = replace(run, duration_s=time.perf_counter() - began)
    return replace(run, gates=gates.decide(run, limits or {}))


def _check_inputs(names: Sequence[str], opened: Sequence[originals.Original]) -> None:
    """Raise UsageError where a model cannot take the first one's inputs, on which all are measured."""
    there = {info.name: info for info in opened[0].session.inputs}
    for name, other in zip(names[1:], opened[1:], strict=True):
        asked = other.session.inputs
        unknown = [info.name for info in asked if info.name not in there]
        told = [
            *([f"it asks for {_listed(unknown)} where {names[0]} has {_listed(there)}"] if unknown else []),
            *(said for info in asked if info.name in there for said in _differences(info, there[info.name])),
        ]
        if told:
            raise UsageError(
                f"the inputs of {name} are not those of {names[0]}",
                why="; ".join(told),
                fix="models are measured on the same inputs: let names, types and shapes be the same",
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _differences(own: TensorInfo, there: TensorInfo) -> Iterator[str]:
    """Say what is other about an input than about the first model's of that name."""
    kinds = [info.dtype if info.numpy is None else info.numpy.name for info in (own, there)]
    if own.dtype != there.dtype:
        yield f"{own.name!r} is {kinds[0]} and not {kinds[1]}"
    fixed = [{axis: d for axis, d in enumerate(info.shape) if isinstance(d, int)} for info in (own, there)]
    others = any(size != fixed[1].get(axis, size) for axis, size in fixed[0].items())
    # Without a shape it is a number, or of any.
    if own.shape and there.shape and (others or len(own.shape) != len(there.shape)):
        shapes = [" × ".join("?" if d is None else str(d) for d in info.shape) for info in (own, there)]
        yield f"{own.name!r} has shape {shapes[0]} and not {shapes[1]}"


def _accuracy(opened: Sequence[originals.Original], task: Task | None, threads: int) -> Accuracy | None:
    """Return the accuracy of two models that call inputs and outputs alike; None without labels."""
    if task is None or len(opened) != 2:
        return None
    names = [{i.name for i in (*o.session.inputs, *o.session.outputs)} for o in opened]
    if names[0] != names[1]:
        return None
    before, after = (o.session.run for o in opened)
    return verify.accuracy(before, after, task, threads=threads)


def _overridable(names: Sequence[str], opened: Sequence[originals.Original]) -> tuple[str, ...]:
    """Say which models list weights as inputs: onnxruntime then neither folds nor rearranges them."""
    said = []
    for name, other in zip(names, opened, strict=True):
        graph = other.model.ir.graph
        count = sum(v.is_graph_input() for v in graph.initializers.values())
        if count and int(other.model.ir.ir_version or 0) >= LEAST_IR_VERSION:
            said.append(
                f"{name} lists {count} weights as inputs, so that callers may replace them: onnxruntime "
                "cannot prepare them while it loads, which may cost more than any compression saves"
            )
    return tuple(said)


def _distinct_names(sources: Sequence[Path]) -> list[str]:
    """Return the files' names, longer where two are alike; A against A is told by number."""
    names = [s.name for s in sources]
    if len(set(names)) < len(names):
        names = [str(s) for s in sources]
    return [f"{n} ({i + 1})" if names.count(n) > 1 else n for i, n in enumerate(names)]
