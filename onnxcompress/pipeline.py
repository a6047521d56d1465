"""The order of stages, and the only file that knows it.

import → data → methods (decide) → export (prove) → verify → measure → facts → place. Nothing appears under
the output's name before everything that can fail has passed.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxcompress import __version__, bench, exporter, gates, importer, verify
from onnxcompress.core.errors import NothingChangedError, UsageError
from onnxcompress.core.model import Model
from onnxcompress.core.plan import Plan
from onnxcompress.core.resources import Resources
from onnxcompress.core.run import SCHEMA, Accuracy, Benchmark, Comparison, MethodFacts, Refusal, Run
from onnxcompress.core.task import Feeds, Task
from onnxcompress.engine import facts, feeds, runtime
from onnxcompress.engine.data import Examples, make_task, open_data
from onnxcompress.methods._base import Method, Needs
from onnxcompress.recipe import Recipe

COMPARED_EXAMPLES = 256
"""Examples whose outputs are compared where there is data."""

COMPARED_RANDOM = 4
"""Random feeds whose outputs are compared where there is none."""

RANDOM_EXAMPLES = 512
"""Random examples that --random-data makes, unless --limit says otherwise."""

TASK_OPTIONS = ("limit", "val", "loss", "metric")
"""Data options that say what to do with the data, not how to read it."""

LATENCY_BUDGET_S = 10.0
"""Seconds for the latency comparison."""

TORCH_TOLERANCE = 1e-4
"""Relative ℓ2 to which the file must agree with the torch model, or 4 times what the original file does."""

Source = str | Path | onnx.ModelProto | ir.Model


@dataclass(frozen=True)
class Request:
    """Everything one compression is asked for.

    Attributes:
        source: the model.
        recipe: methods, data options, seed.
        output: where the result goes; None: only planned and measured, nothing is written.
        overwrite: an existing output may be replaced (the input never is).
        random_data: the methods may train or calibrate on random numbers.
        input_shapes: concrete shapes of inputs with symbolic dimensions.
        threads: CPU threads of onnxruntime and torch.
        resources: device, time limit, checkpoints, progress.
        limits: gate name -> limit (:data:`onnxcompress.gates.LIMITS`).
        benchmark: measure latency, load time and memory.
        command: the command line, for the report.
    """

    source: Source
    recipe: Recipe
    output: Path | None = None
    overwrite: bool = False
    random_data: bool = False
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int = 1
    resources: Resources = field(default_factory=Resources)
    limits: Mapping[str, float] = field(default_factory=dict)
    benchmark: bool = True
    command: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Original:
    """The model as it came, open in onnxruntime, with concrete input shapes."""

    model: Model
    file: Path | bytes
    session: runtime.OrtSession
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Compared:
    """Inputs on which outputs are compared, and where they come from."""

    feeds: tuple[Feeds, ...]
    examples: int
    origin: str
    random: bool


def compress(request: Request) -> Run:
    """Run the recipe and write the compressed model to ``request.output``.

    Raises:
        OnnxCompressError: any of its tree; then nothing has been written.
    """
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    if request.output is not None:
        exporter.check_target(request.output, _path(request.source), overwrite=request.overwrite)
    original = open_original(request.source, request.input_shapes, request.threads)
    task = _task(request, original)
    model, plans, method_facts = _decide(request, original.model, task)
    refusals = tuple(r for plan in plans for r in plan.refusals)
    changed = {name: e for plan in plans for name, e in plan.weights.items()}
    if not changed:
        raise _nothing_changed(original.model, refusals)
    warnings = [*(task.warnings if task else ()), *(w for plan in plans for w in plan.warnings)]
    compared = _compared(original, task, request.recipe.seed)
    with tempfile.TemporaryDirectory(prefix=".onnxcompress-", dir=_staging(request)) as folder:
        name = request.output.name if request.output else _default_name(request)
        staged = exporter.export(model, Path(folder) / name)
        refusals += staged.refusals
        warnings += staged.warnings
        comparisons = _verify(original, model, staged.path, compared, request.threads)
        accuracy = _accuracy(original, staged.path, task, request.threads)
        benchmark = _benchmark(request, original, staged.path, name)
        run = Run(
            schema=SCHEMA,
            version=__version__,
            kind="compress",
            command=request.command,
            recipe=request.recipe.to_dict(),
            seed=request.recipe.seed,
            started=started,
            duration_s=time.perf_counter() - began,
            environment=facts.environment(),
            models=(
                facts.model_facts(original.file, original.model, original.shapes, name=_name(request.source)),
                facts.model_facts(staged.path, model, original.shapes, name=name),
            ),
            methods=method_facts,
            weights=facts.weight_facts(original.model, changed),
            refusals=refusals,
            warnings=tuple(dict.fromkeys(warnings)),
            comparisons=comparisons,
            accuracy=accuracy,
            benchmark=benchmark,
        )
        run = replace(run, gates=gates.decide(run, request.limits))
        if request.output is not None:
            exporter.place(staged.path, request.output)
    return run


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
    limits: Mapping[str, float] | None = None,
    command: tuple[str, ...] | None = None,
) -> Run:
    """Compare models with the first one: outputs, size, latency.

    Args:
        sources: files; the first is the reference.
        data: data options (``path`` …); the outputs are compared on held-out examples of it, on seeded random
            inputs where it is None.
        input_shapes: concrete shapes of inputs with symbolic dimensions.
        seed: of random inputs and of the order of measurements.
        threads: onnxruntime's threads.
        outputs: compare outputs.
        benchmark: measure latency.
        budget_s: time for measuring latency.
        limits: gates.
        command: the command line, for the report.
    """
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    opened = [open_original(source, input_shapes or {}, threads) for source in sources]
    first = opened[0]
    names = _distinct_names(sources)
    compared = None
    if outputs:
        task = _data_task(first, data or {}, seed) if data else None
        compared = _compared(first, task, seed)
    comparisons = tuple(
        replace(_compare_outputs(first, other, compared, threads), candidate=name)
        for name, other in zip(names[1:], opened[1:], strict=True)
        if compared is not None
    )
    run = Run(
        schema=SCHEMA,
        version=__version__,
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
        comparisons=comparisons,
        benchmark=_latency(first, dict(zip(names, sources, strict=True)), seed, threads, budget_s)
        if benchmark
        else None,
    )
    run = replace(run, duration_s=time.perf_counter() - began)
    return replace(run, gates=gates.decide(run, limits or {}))


def _distinct_names(sources: Sequence[Path]) -> list[str]:
    """Return the files' names, longer where two are alike; A against A is told by number."""
    names = [s.name for s in sources]
    if len(set(names)) < len(names):
        names = [str(s) for s in sources]
    return [f"{n} ({i + 1})" if names.count(n) > 1 else n for i, n in enumerate(names)]


def _compare_outputs(first: Original, other: Original, compared: Compared, threads: int) -> Comparison:
    return verify.compare(
        first.file,
        other.file,
        compared.feeds,
        inputs=compared.origin,
        random_inputs=compared.random,
        examples=compared.examples,
        threads=threads,
        same_types=False,
    )


def open_original(source: Source, input_shapes: Mapping[str, tuple[int, ...]], threads: int) -> Original:
    """Import a model, open it in onnxruntime and find concrete shapes of its inputs.

    Raises:
        UnsupportedError: the file is not a model, or onnxruntime does not run it.
        UsageError: ``input_shapes`` names an input that does not exist, or does not fit.
    """
    model = importer.load(source)
    path = _path(source)
    file = path if path is not None else exporter.dense_bytes(model)
    session = runtime.open_session(file, threads=threads)
    return Original(model, file, session, feeds.resolve_shapes(model, session, input_shapes))


def _task(request: Request, original: Original) -> Task | None:
    """Return what the methods may train on; None where no data was given."""
    options, seed = request.recipe.data, request.recipe.seed
    if not request.random_data:
        return _data_task(original, options, seed) if options.get("path") is not None else None
    if options.get("path") is not None:
        raise UsageError("--data and --random-data exclude each other", fix="leave one of them out")
    examples = _random_examples(original, options.get("limit") or RANDOM_EXAMPLES, seed)
    return make_task(examples, seed=seed, **{k: v for k, v in options.items() if k in TASK_OPTIONS})


def _data_task(original: Original, options: Mapping[str, Any], seed: int) -> Task:
    reading = {k: v for k, v in options.items() if k != "path" and k not in TASK_OPTIONS}
    examples = open_data(
        options["path"],
        original.session.inputs,
        outputs=original.session.outputs,
        predict=original.session.run,
        seed=seed,
        **reading,
    )
    return make_task(examples, seed=seed, **{k: v for k, v in options.items() if k in TASK_OPTIONS})


def _random_examples(original: Original, count: int, seed: int) -> Examples:
    drawn = feeds.random_feeds(
        original.session.inputs, seed=seed, shapes=original.shapes, examples=count, model=original.model
    )
    return replace(open_data(drawn, original.session.inputs, seed=seed), random=True, origin="random numbers")


def _decide(
    request: Request, model: Model, task: Task | None
) -> tuple[Model, list[Plan], tuple[MethodFacts, ...]]:
    """Run the methods one after the other, each on the result of the one before."""
    plans, method_facts = [], []
    for method in request.recipe.methods:
        _check_needs(method, task)
        began = time.perf_counter()
        plan = method.plan(model, task, request.resources)
        model = model.with_encodings({**plan.values, **plan.weights}, method.name)
        plans.append(plan)
        method_facts.append(
            MethodFacts(
                name=method.name,
                options=_options(request.recipe, method),
                source=method.source,
                summary=method.summary,
                duration_s=time.perf_counter() - began,
                training=plan.training,
            )
        )
    return model, plans, tuple(method_facts)


def _check_needs(method: Method, task: Task | None) -> None:
    if method.needs is not Needs.NOTHING and task is None:
        raise UsageError(f"method {method.name!r} needs data", fix="give inputs with --data")
    if method.needs is Needs.LABELS and task is not None and not task.labelled:
        raise UsageError(f"method {method.name!r} needs labels", fix="name them with --labels")


def _options(recipe: Recipe, method: Method) -> dict[str, Any]:
    entry = recipe.to_dict()["method"][recipe.methods.index(method)]
    return {k: v for k, v in entry.items() if k != "name"}


def _nothing_changed(model: Model, refusals: tuple[Refusal, ...]) -> NothingChangedError:
    reasons: dict[str, int] = {}
    for refusal in refusals:
        reasons[refusal.why] = reasons.get(refusal.why, 0) + 1
    told = "; ".join(f"{why} ({count} of them)" if count > 1 else why for why, count in reasons.items())
    return NothingChangedError(
        "nothing would change, so nothing was written",
        where=model.source.path,
        why=told or "the model has no weights this method handles",
        fix="`onnxcompress inspect` shows what the model consists of",
    )


def _compared(original: Original, task: Task | None, seed: int) -> Compared:
    """Return the inputs that outputs are compared on: held-out examples, else seeded random numbers."""
    if task is not None and not task.random and isinstance(task.samples, Examples):
        split, indices = ("test", task.test) if task.test is not None else ("validation", task.validation)
        some = indices[:COMPARED_EXAMPLES]
        stack = task.samples.inputs(some)
        calls = tuple(feed for _, feed in task.samples.feeding.calls(stack, 32))
        return Compared(calls, len(some), f"{len(some)} {split} examples", False)
    drawn = feeds.random_feeds(
        original.session.inputs,
        seed=seed,
        shapes=original.shapes,
        examples=COMPARED_RANDOM,
        model=original.model,
    )
    return Compared(tuple(drawn), len(drawn), f"{len(drawn)} seeded random inputs", True)


def _verify(
    original: Original, model: Model, written: Path, compared: Compared, threads: int
) -> tuple[Comparison, ...]:
    """Compare the file with the original, and with the torch model the methods believed in."""
    from onnxcompress.engine.torchgraph import TorchGraph  # noqa: PLC0415

    told = {"inputs": compared.origin, "random_inputs": compared.random, "examples": compared.examples}
    original_in_torch = TorchGraph(original.model).run
    floor = verify.worst(
        verify.against_torch(
            original_in_torch,
            original.file,
            compared.feeds,
            tolerance=TORCH_TOLERANCE,
            threads=threads,
            **told,
        )
    )
    believed = verify.against_torch(
        TorchGraph(model).run,
        written,
        compared.feeds,
        tolerance=max(TORCH_TOLERANCE, 4 * floor),
        threads=threads,
        **told,
    )
    verify.require(believed)
    cost = verify.compare(original.file, written, compared.feeds, threads=threads, **told)
    verify.require(cost)
    return cost, believed


def _accuracy(original: Original, written: Path, task: Task | None, threads: int) -> Accuracy | None:
    if task is None or not task.labelled:
        return None
    after = runtime.open_session(written, threads=threads)
    return verify.accuracy(original.session.run, after.run, task)


def _benchmark(request: Request, original: Original, written: Path, name: str) -> Benchmark | None:
    if not request.benchmark:
        return None
    with _as_file(original.file) as before:
        models = {_name(request.source): before, name: written}
        return _latency(original, models, request.recipe.seed, request.threads, LATENCY_BUDGET_S)


def _latency(
    original: Original, models: Mapping[str, Path], seed: int, threads: int, budget_s: float
) -> Benchmark:
    single = feeds.random_feeds(
        original.session.inputs, seed=seed, shapes=original.shapes, model=original.model
    )[0]
    return bench.compare_latency(
        models, single, threads=threads, seed=seed, budget_s=budget_s, inputs="one seeded random input"
    )


@contextlib.contextmanager
def _as_file(model: Path | bytes) -> Iterator[Path]:
    if isinstance(model, Path):
        yield model
        return
    folder = Path(tempfile.mkdtemp(prefix="onnxcompress-"))
    try:
        (folder / "original.onnx").write_bytes(model)
        yield folder / "original.onnx"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _path(source: Source) -> Path | None:
    return Path(source) if isinstance(source, (str, Path)) else None


def _name(source: Source) -> str:
    path = _path(source)
    return path.name if path is not None else "model in memory"


def _default_name(request: Request) -> str:
    return default_output(_path(request.source) or Path("model.onnx"), request.recipe).name


def default_output(source: Path, recipe: Recipe) -> Path:
    """Return ``IN.<method>.onnx`` beside the input."""
    return source.with_name(f"{source.stem}.{'+'.join(m.name for m in recipe.methods)}.onnx")


def _staging(request: Request) -> Path | None:
    """Return the folder in which the result is made: the output's own, so that placing it is one rename."""
    return request.output.parent if request.output is not None else None
