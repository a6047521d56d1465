"""The model as it came: imported, open in onnxruntime, with inputs to train on, to compare on and to time."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxcompress import bench, exporter, importer, verify
from onnxcompress.core.errors import DataError, OnnxCompressError, UnsupportedError, UsageError
from onnxcompress.core.model import Model
from onnxcompress.core.run import GIVEN, Benchmark, Comparison
from onnxcompress.core.task import Feeds, Task
from onnxcompress.engine import class_scores, feeds, runtime, scores
from onnxcompress.engine.data import Examples, make_task, open_data
from onnxcompress.engine.denormals import NOTABLE
from onnxcompress.recipe import TASK_OPTIONS
from onnxcompress.surgery import store_computed_weights

COMPARED_EXAMPLES = 256
"""Examples whose outputs are compared where there is data."""

COMPARED_RANDOM = 4
"""Random feeds whose outputs are compared where there is none."""

COMPARED_AT_ONCE = 32
"""Examples of one call when outputs are compared."""

LATENCY_BUDGET_S = 10.0
"""Seconds for the latency comparison."""

Source = str | Path | onnx.ModelProto | ir.Model


@dataclass(frozen=True)
class Original:
    """The model as it came, open in onnxruntime, with concrete input shapes.

    Attributes:
        model: what methods work on.
        file: the model as it came.
        session: ``witness`` in onnxruntime.
        shapes: of its inputs.
        scores: outputs that ``model`` has and ``file`` has not (:mod:`onnxcompress.engine.scores`).
        witness: the file of ``model``: ``file`` itself unless there are such outputs.
        decided: outputs that are decisions, or selected by some, made of other outputs of ``model``.
    """

    model: Model
    file: Path | bytes
    session: runtime.OrtSession
    shapes: Mapping[str, tuple[int, ...]]
    scores: tuple[str, ...]
    witness: Path | bytes
    decided: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Compared:
    """Inputs on which outputs are compared, and where they come from; one of them alone, of the data.

    ``unranked`` are the outputs that are no class scores.
    """

    feeds: tuple[Feeds, ...]
    examples: int
    origin: str
    random: bool
    single: Feeds | None = None
    unranked: frozenset[str] = frozenset()


def open_original(source: Source, input_shapes: Mapping[str, tuple[int, ...]], threads: int) -> Original:
    """Import a model, open it in onnxruntime and find concrete shapes of its inputs.

    Raises:
        UnsupportedError: the file is not a model, or onnxruntime does not run it.
        UsageError: ``input_shapes`` names an input that does not exist, or does not fit.
    """
    model = importer.load(source)
    path = path_of(source)
    file = path if path is not None else exporter.dense_bytes(model)
    session = runtime.open_session(file, threads=threads)
    model, shown, decided = _with_scores(model, session)
    witness = exporter.dense_bytes(model) if shown else file
    if shown:
        session = runtime.open_session(witness, threads=threads)
    try:
        shapes = feeds.resolve_shapes(model, session, input_shapes)
    except UsageError as error:  # of several models, which one
        raise UsageError(
            error.what, where=error.where or model.source.path, why=error.why, fix=error.fix
        ) from error
    return Original(model, file, session, shapes, shown, witness, decided)


def with_stored_weights(original: Original) -> tuple[Original, tuple[str, ...]]:
    """Return the original with weights stored that its file computes, and the nodes that computed them."""
    model, names = store_computed_weights(original.model)
    return (replace(original, model=model), names) if names else (original, ())


def _with_scores(model: Model, session: runtime.OrtSession) -> tuple[Model, tuple[str, ...], frozenset[str]]:
    """Make what decides an output as well, where no output has scores; return it, its names, and of what."""
    real = {o.name: o for o in session.outputs if o.numpy is not None and o.numpy.kind not in "iubO"}
    selected = scores.decided(model) & real.keys()
    plain = [o for name, o in real.items() if name not in selected]
    asked = set(selected)
    if all(_one_number(o.shape) for o in plain):
        asked |= {o.name for o in session.outputs} - real.keys()
    shown = _showable(model, scores.deciding(model, asked))
    if plain and not selected:  # one number tells as much as its threshold does, but not which of several
        shown = {name: shape for name, shape in shown.items() if not _one_number(shape)}
    there = shown.keys() | {o.name for o in plain}
    made_of = {name: scores.deciding(model, [name], own=True) for name in asked}
    decided = frozenset(name for name, found in made_of.items() if found and there.issuperset(found))
    if not shown:
        return model, (), decided & selected
    return scores.revealed(model, tuple(shown)), tuple(shown), decided


def _showable(model: Model, names: Sequence[str]) -> dict[str, Sequence[int | str | None]]:
    """Return those of these values that can be outputs and hold real numbers, with their shapes."""
    if not names:
        return {}
    try:
        session = runtime.open_session(exporter.dense_bytes(scores.revealed(model, names)))
    except UnsupportedError:  # too large for one message, or values that cannot be outputs
        singly = [_showable(model, [name]) for name in names] if len(names) > 1 else []
        return {name: shape for found in singly for name, shape in found.items()}
    found = {o.name: o.shape for o in session.outputs if o.numpy is not None and o.numpy.kind == "f"}
    return {name: found[name] for name in names if name in found}


def _one_number(shape: Sequence[int | str | None]) -> bool:
    """Tell whether an output is known to be one number an example."""
    return len(shape) > 0 and all(d == 1 for d in shape[1:])


def data_task(original: Original, options: Mapping[str, Any], seed: int) -> Task:
    """Open the data and return the task it makes for this model; raises DataError where it does not fit."""
    reading = {k: v for k, v in options.items() if k != "path" and k not in TASK_OPTIONS}
    examples = open_data(
        options["path"],
        original.session.inputs,
        outputs=original.session.outputs,
        predict=original.session.run,
        seed=seed,
        **reading,
    )
    return task_of(original, examples, options, seed)


def untrained_task(original: Original, options: Mapping[str, Any], seed: int) -> Task:
    """Return the task of data that nothing is trained on: none of it has to be held out.

    Results are measured on all examples, or those that ``limit`` leaves, unless the data has a test or a
    validation split of its own, or the user asks for one with ``val``.
    """
    task = data_task(original, options, seed)
    assert isinstance(task.samples, Examples)
    whole = task.samples.splits["train"]
    if task.test is not None or options.get("val") is not None or not np.isin(task.validation, whole).all():
        return task
    given = np.union1d(task.train, task.validation)
    # Mixed: the first so many are to stand for all, and data may be sorted by class.
    mixed = np.random.default_rng([seed, 0xA11]).permutation(given)
    return replace(task, train=given[:0], validation=mixed, validation_told=GIVEN)


def task_of(original: Original, examples: Examples, options: Mapping[str, Any], seed: int) -> Task:
    """Return the task that examples make for this model."""
    task = make_task(examples, seed=seed, **{k: v for k, v in options.items() if k in TASK_OPTIONS})
    return replace(task, decided=original.decided)


def with_sizes_of_data(original: Original, task: Task | None, given: Mapping[str, Any]) -> Original:
    """Return the original with the sizes of a validation example where the file leaves sizes open.

    Costs are counted and cuts decided at these sizes, which have to be those the model is used at.

    Args:
        original: with sizes that run.
        task: whose examples are looked at; random ones have been drawn at the original's sizes.
        given: input shapes that the user chose; where there are some, they are left as they are.
    """
    infos = original.session.inputs
    opened = [info.name for info in infos if not all(isinstance(d, int) for d in info.shape)]
    if given or not opened or task is None or task.random or not isinstance(task.samples, Examples):
        return original
    feed = _first_example(task.samples, task)
    wanted = {name: tuple(np.shape(feed[name])) for name in opened}
    if all(original.shapes[name] == shape for name, shape in wanted.items()):
        return original
    try:
        return replace(original, shapes=feeds.resolve_shapes(original.model, original.session, wanted))
    except OnnxCompressError:  # random numbers of these sizes may not do
        return original


def require_data_runs(original: Original, task: Task | None) -> None:
    """Run the original on the data, after something failed: where that fails as well, it is the data.

    Raises:
        DataError: names the first example that onnxruntime refuses.
    """
    if task is None or task.random or not isinstance(task.samples, Examples):
        return
    everything = [task.train, task.validation, *([task.test] if task.test is not None else [])]
    for split in everything:
        for start in range(0, len(split), COMPARED_AT_ONCE):
            _require_runs(original, task.samples, split[start : start + COMPARED_AT_ONCE])


def _require_runs(original: Original, samples: Examples, indices: Any) -> None:
    try:
        for _, feed in samples.feeding.calls(samples.inputs(indices), COMPARED_AT_ONCE):
            original.session.run(feed)
    except OnnxCompressError as error:
        if len(indices) > 1:
            for one in indices:
                _require_runs(original, samples, np.array([one]))
            return  # together they do not run, each alone does: that is the model's fault
        raise DataError(
            "the model does not run on the data",
            where=samples.place(int(indices[0])),
            why=f"onnxruntime says: {error.why or error.what}",
        ) from error


def _first_example(samples: Examples, task: Task) -> Feeds:
    stack = samples.inputs(task.validation[:1])
    return next(iter(samples.feeding.calls(stack, 1)))[1]


def random_examples(original: Original, count: int, seed: int) -> Examples:
    """Return seeded random examples, marked as such."""
    drawn = feeds.random_feeds(
        original.session.inputs, seed=seed, shapes=original.shapes, examples=count, model=original.model
    )
    examples = open_data(drawn, original.session.inputs, predict=original.session.run, seed=seed)
    return replace(examples, random=True, origin="random numbers")


def compared_inputs(original: Original, task: Task | None, seed: int) -> Compared:
    """Return the inputs that outputs are compared on: examples nothing is trained on, else random numbers."""
    unranked = class_scores.unranked(original.model, task)
    if task is not None and not task.random and isinstance(task.samples, Examples):
        split, indices = task.measured
        some = indices[:COMPARED_EXAMPLES]
        stack = task.samples.inputs(some)
        calls = tuple(feed for _, feed in task.samples.feeding.calls(stack, COMPARED_AT_ONCE))
        single = single_example(original, task)
        told = f"{len(some)} {split} example{'s' if len(some) > 1 else ''}"
        return Compared(calls, len(some), told, False, single, unranked)
    drawn = feeds.random_feeds(
        original.session.inputs,
        seed=seed,
        shapes=original.shapes,
        examples=COMPARED_RANDOM,
        model=original.model,
    )
    told = f"{len(drawn)} seeded random inputs"
    return Compared(tuple(drawn), len(drawn), told, True, unranked=unranked)


def single_example(original: Original, task: Task | None) -> Feeds | None:
    """Return one validation example at the shapes that costs are counted at, None where there is none."""
    if task is None or task.random or not isinstance(task.samples, Examples):
        return None
    feed = _first_example(task.samples, task)
    fits = all(np.shape(feed[name]) == tuple(shape) for name, shape in original.shapes.items())
    return feed if fits else None


def compare_outputs(
    reference: Path | bytes,
    candidate: Path | bytes,
    compared: Compared,
    threads: int,
    *,
    same_types: bool = True,
    decided: Collection[str] = (),
) -> Comparison:
    """Compare the outputs of two models in onnxruntime, ``decided`` as in :func:`verify.compare`."""
    return verify.compare(
        reference,
        candidate,
        compared.feeds,
        inputs=compared.origin,
        random_inputs=compared.random,
        examples=compared.examples,
        threads=threads,
        same_types=same_types,
        decided=decided,
        unranked=compared.unranked,
    )


def latency(
    original: Original,
    models: Mapping[str, Path],
    seed: int,
    threads: int,
    budget_s: float = LATENCY_BUDGET_S,
    *,
    single: Feeds | None = None,
    provider: str = "CPUExecutionProvider",
) -> Benchmark:
    """Compare latencies on one input, a seeded random one where none is given; the first is the reference."""
    random = single is None
    return bench.compare_latency(
        models,
        single if single is not None else random_single(original, seed),
        threads=threads,
        seed=seed,
        budget_s=budget_s,
        provider=provider,
        denormals=random and provider == "CPUExecutionProvider",
        inputs="one seeded random input" if random else "one validation example",
    )


def random_single(original: Original, seed: int) -> Feeds:
    """Return one seeded random input."""
    return feeds.random_feeds(
        original.session.inputs, seed=seed, shapes=original.shapes, model=original.model
    )[0]


def latency_warnings(benchmark: Benchmark | None) -> tuple[str, ...]:
    """Say where a latency rests on denormal numbers, which random inputs may bring, real ones rarely."""
    if benchmark is None:
        return ()
    said = []
    first = benchmark.latencies[0] if benchmark.latencies else None
    for index, latency in enumerate(benchmark.latencies):
        flushed = latency.flushed_ms
        if flushed is None or latency.median_ms < NOTABLE * flushed:
            continue
        told = (
            f"the latency of {latency.name} rests on random inputs and denormal numbers: "
            f"{latency.median_ms:.3g} ms, {flushed:.3g} ms with them flushed to zero"
        )
        if index and first is not None and first.flushed_ms:
            told += (
                f"; its ratio would be {flushed / first.flushed_ms:.2f} "
                f"and not {latency.median_ms / first.median_ms:.2f}"
            )
        said.append(told + "; give --data to time it on real inputs")
    return tuple(said)


@contextlib.contextmanager
def as_file(model: Path | bytes) -> Iterator[Path]:
    """Give a serialised model a file for as long as the context lasts."""
    if isinstance(model, Path):
        yield model
        return
    folder = Path(tempfile.mkdtemp(prefix="onnxcompress-"))
    try:
        (folder / "original.onnx").write_bytes(model)
        yield folder / "original.onnx"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def path_of(source: Source) -> Path | None:
    """Return the path of a model given as one, None for a model in memory."""
    return Path(source) if isinstance(source, (str, Path)) else None
