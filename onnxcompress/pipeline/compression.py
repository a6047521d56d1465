"""Compression: import → data → methods → surgery → export (proves) → verify → measure → facts → place.

Nothing appears under the output's name before everything that can fail has passed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from onnxcompress import exporter, gates, surgery, verify
from onnxcompress.core.channel_facts import CutFacts
from onnxcompress.core.encoding import Encoding
from onnxcompress.core.errors import ExecutionError, NothingChangedError
from onnxcompress.core.model import Model
from onnxcompress.core.plan import Plan
from onnxcompress.core.refusal import Refusal, advice, in_words
from onnxcompress.core.run import SCHEMA, Accuracy, Benchmark, Comparison, MethodFacts, Run
from onnxcompress.core.simplification import SimplificationFacts
from onnxcompress.core.task import Task
from onnxcompress.core.version import VERSION
from onnxcompress.encodings.dense import Dense
from onnxcompress.engine import runtime
from onnxcompress.engine.measures import facts
from onnxcompress.engine.proto import read_proto
from onnxcompress.engine.scores import concealed, made_alike, ways
from onnxcompress.methods._base import Method
from onnxcompress.methods._options import options_of
from onnxcompress.pipeline import _original as originals
from onnxcompress.pipeline._carrying_out import carry_out
from onnxcompress.pipeline._channels import channel_facts
from onnxcompress.pipeline._compared import Compared, compare_outputs, compared_inputs
from onnxcompress.pipeline._data import require_data_runs
from onnxcompress.pipeline._factoring import as_stored
from onnxcompress.pipeline._latency import latency_of_cuts
from onnxcompress.pipeline._opening import Opened, opened
from onnxcompress.pipeline._original import Original, path_of
from onnxcompress.pipeline._quantized import (
    check_last,
    quantised_tolerance,
    quantised_weights,
    stopwatch,
)
from onnxcompress.pipeline._request import Request, names_of, staging
from onnxcompress.pipeline._told import (
    few_bits,
    labels_doubtful,
    newer_format,
    overshot,
    scores_told,
    too_much_lost,
    torch_differs,
)
from onnxcompress.pipeline._training_time import TrainingTime
from onnxcompress.surgery.factoring import Factored

TORCH_TOLERANCE = 1e-4
"""Relative ℓ2 to which the file must agree with the torch model, or 4 times what the original file does."""


def compress(request: Request) -> Run:
    """Run the recipe and write the compressed model to ``request.output``.

    Raises:
        OnnxCompressError: any of its tree; then nothing has been written.
    """
    clock = _Clock()
    gates.check(request.limits, benchmark=request.benchmark, data=_has_data(request))
    _check_device(request.resources.device)
    if request.output is not None:
        exporter.check_target(request.output, path_of(request.source), overwrite=request.overwrite)
    check_last(request.recipe.methods)
    for method in request.recipe.methods:
        method.check(timed=request.benchmark)
    found = opened(request)
    # Imported here: `inspect` and `compare` live in the same package and need no torch.
    from onnxcompress.engine.torch_settings import own_settings  # noqa: PLC0415

    with own_settings(request.threads):
        return _compressed(request, found, clock)


class _Clock:
    """When a run began."""

    def __init__(self) -> None:
        self._began, self.started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")

    def seconds(self) -> float:
        """Return how long it has been running."""
        return time.perf_counter() - self._began


def _compressed(request: Request, found: Opened, clock: _Clock) -> Run:
    """Carry out what was asked for of the opened model, and write it."""
    original, task = found.original, found.task
    decided, refusals = _decide(request, original, task)
    model, plans = decided.model, decided.plans
    final, folded, gone = _fold(model) if request.fold else (model, (), frozenset())
    refusals = tuple(r for r in refusals if r.where not in gone)
    warnings = [*scores_told(original), *(task.warnings if task else ()), *decided.warnings]
    if request.resources.checkpoint_dir is not None and not any(plan.training for plan in plans):
        flag = "--resume" if request.resources.resume else "--checkpoint"
        warnings.append(f"{flag} had no effect: nothing was trained, so there is no state to keep")
    warnings += newer_format(original.model, final)
    compared = compared_inputs(original, task, request.recipe.seed)
    with tempfile.TemporaryDirectory(prefix=".onnxcompress-", dir=staging(request)) as folder:
        before, name = names_of(request)
        target = Path(folder) / (request.output or Path("result.onnx")).name
        staged = exporter.export(concealed(final, original.scores), target, shapes=original.shapes)
        witness = exporter.dense_bytes(final) if original.scores else staged.path
        refusals += staged.refusals
        warnings += staged.warnings
        quantised = any(plan.quantization is not None for plan in plans)
        comparisons = _verify(original, model, witness, compared, request.threads, quantised=quantised)
        warnings += () if quantised else torch_differs(comparisons)
        warnings += too_much_lost(comparisons, task)
        accuracy = _accuracy(original, witness, task, request.threads)
        warnings += labels_doubtful(accuracy)
        benchmark = _benchmark(request, original, staged.path, (before, name), compared)
        warnings += originals.latency_warnings(benchmark)
        run = Run(
            schema=SCHEMA,
            version=VERSION,
            kind="compress",
            command=request.command,
            recipe=request.recipe.to_dict(),
            seed=request.recipe.seed,
            started=clock.started,
            duration_s=clock.seconds(),
            environment=facts.environment(),
            models=(
                facts.model_facts(original.file, original.model, original.shapes, name=before),
                facts.model_facts(staged.path, final, original.shapes, name=name),
            ),
            methods=(*_stored(found.computed), *decided.facts, *folded),
            weights=facts.weight_facts(
                original.model, final, _written(_changed(original.model, decided, gone), staged.refusals)
            ),
            refusals=refusals,
            warnings=tuple(dict.fromkeys(warnings)),
            comparisons=comparisons,
            accuracy=accuracy,
            benchmark=benchmark,
            cuts=decided.cuts,
            channels=channel_facts(original.model, original.shapes) if decided.cuts else None,
            quantizations=tuple(plan.quantized for plan in plans if plan.quantized is not None),
            simplifications=decided.simplified,
        )
        run = replace(run, gates=gates.decide(run, request.limits))
        if request.output is not None:
            exporter.place(staged.path, request.output)
    return run


def _has_data(request: Request) -> bool:
    return request.recipe.data.get("path") is not None


@dataclass(frozen=True, eq=False)
class _Decided:
    """The model after all methods, and what each of them did."""

    model: Model
    plans: tuple[Plan, ...] = ()
    facts: tuple[MethodFacts, ...] = ()
    cuts: tuple[CutFacts, ...] = ()
    warnings: tuple[str, ...] = ()
    simplified: tuple[SimplificationFacts, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    factored: Mapping[str, Factored] = field(default_factory=dict)


def _decide(request: Request, original: Original, task: Task | None) -> tuple[_Decided, tuple[Refusal, ...]]:
    """Run the methods; return what they did, and what they left alone.

    Raises:
        NothingChangedError: they did nothing.
    """
    try:
        decided = _run_methods(request, original, task)
    except ExecutionError:
        require_data_runs(original, task)
        raise
    refusals = (*(r for plan in decided.plans for r in plan.refusals), *decided.refusals)
    planned = any(plan.weights or plan.values for plan in decided.plans)
    if not (decided.cuts or decided.simplified or planned):
        raise _nothing_changed(original.model, request.recipe.methods, refusals)
    return decided, refusals


def _run_methods(request: Request, original: Original, task: Task | None) -> _Decided:
    """Run the methods one after the other, each on the result of the one before."""
    resources = replace(
        request.resources,
        input_shapes=original.shapes,
        seed=request.recipe.seed,
        teacher=original.model,
        latency=latency_of_cuts(original, request.recipe.seed, request.threads),
    )
    resources = replace(resources, limits=request.limits, threads=request.threads)
    if request.benchmark:
        resources = replace(
            resources, stopwatch=stopwatch(original, task, request.recipe.seed, request.threads)
        )
    training_time = TrainingTime(resources.max_time_s, request.recipe.methods)
    decided = _Decided(original.model)
    for number, method in enumerate(request.recipe.methods, start=1):
        began = time.perf_counter()
        folder = resources.checkpoint_dir
        if folder is not None and len(request.recipe.methods) > 1:
            folder /= f"{number}-{method.name}"
        with training_time.given_to(method) as seconds:
            own = replace(resources, checkpoint_dir=folder, max_time_s=seconds)
            plan = method.plan(decided.model, task, own)
        done = carry_out(
            plan,
            decided.model,
            original.shapes,
            method=method.name,
            task=task,
            seed=request.recipe.seed,
        )
        method_facts = MethodFacts(
            name=method.name,
            options=options_of(method),
            source=method.source,
            summary=method.summary,
            duration_s=time.perf_counter() - began,
            training=plan.training,
        )
        decided = _Decided(
            done.model,
            (*decided.plans, plan),
            (*decided.facts, method_facts),
            (*decided.cuts, *([done.cut] if done.cut is not None else [])),
            (*decided.warnings, *plan.warnings, *done.warnings, *overshot(method, done.cut)),
            (*decided.simplified, *([done.simplified] if done.simplified is not None else [])),
            (*decided.refusals, *done.refusals),
            {**decided.factored, **done.factored},
        )
    return _without_duplicates(decided, original, request.recipe.seed)


def _without_duplicates(decided: _Decided, original: Original, seed: int) -> _Decided:
    """Store equal constants once where a method simplifies; last, so that no method meets them welded."""
    pairs = zip(decided.facts, decided.plans, strict=True)
    name = next((facts.name for facts, plan in pairs if plan.simplification is not None), None)
    if name is None:
        return decided
    joined = surgery.join_duplicates(decided.model, original.shapes, method=name, seed=seed)
    if joined.facts is None:
        return decided
    return replace(decided, model=joined.model, simplified=(*decided.simplified, joined.facts))


def _changed(before: Model, decided: _Decided, gone: frozenset[str]) -> dict[str, Encoding]:
    """Return how the weights are stored now that were encoded or cut, those that are ``gone`` left out."""
    after = decided.model
    encoded = {name for plan in decided.plans for name in plan.weights}
    found = quantised_weights(decided.plans)
    for name, weight in before.weights.items():
        if name in found or name in gone:
            continue
        if name in decided.factored:
            stored = as_stored(after, decided.factored[name])
            found |= {} if stored is None else {name: stored}
        elif name in after.encodings:
            found[name] = after.encodings[name]
        elif name in after.weights and (name in encoded or after.weights[name].shape != weight.shape):
            found[name] = Dense(after.array(name))
    return found


def _written(found: Mapping[str, Encoding], refusals: Sequence[Refusal]) -> dict[str, Encoding]:
    """Return how the weights are stored in the file: those whose packed form does not pay are so whole."""
    whole = {refusal.where for refusal in refusals}
    return {name: Dense(e.decode()) if name in whole else e for name, e in found.items()}


def _check_device(name: str) -> None:
    """Raise UsageError for a device that is not there, also where nothing will be trained on it."""
    if name != "cpu":
        from onnxcompress.engine.training.trainer import torch_device  # noqa: PLC0415

        torch_device(name)


def _fold(model: Model) -> tuple[Model, tuple[MethodFacts, ...], frozenset[str]]:
    """Fold shifts of layer inputs into biases; what was done is told like a method, and what is gone."""
    began = time.perf_counter()
    model, folds = surgery.fold_shifts(model)
    if not folds:
        return model, (), frozenset()
    told = ", ".join(f"{f.constant} ({f.elements} numbers) into {f.bias}" for f in folds)
    seconds = time.perf_counter() - began
    source = "W(x − c) + b = Wx + (b − Wc), with the weights as stored"
    done = MethodFacts("fold", {}, source, f"folded {told}", seconds, None)
    return model, (done,), frozenset(f.constant for f in folds)


def _stored(names: Sequence[str]) -> tuple[MethodFacts, ...]:
    """Tell of weights that the file computed from constants, like a method."""
    if not names:
        return ()
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    told = f"stored {len(names)} weight{'s' if len(names) > 1 else ''} that the file computes: {shown}"
    return (
        MethodFacts(
            "fold", {}, "onnxruntime's own values of what depends on constants alone", told, 0.0, None
        ),
    )


def _nothing_changed(
    model: Model, methods: Sequence[Method], refusals: tuple[Refusal, ...]
) -> NothingChangedError:
    return NothingChangedError(
        "nothing would change, so nothing was written",
        where=model.source.path,
        why=(in_words(refusals) or ", and ".join(dict.fromkeys(m.idle for m in methods))) + few_bits(model),
        fix=advice(refusals, "`onnxcompress inspect` shows what the model consists of"),
    )


def _verify(
    original: Original,
    model: Model,
    written: Path | bytes,
    compared: Compared,
    threads: int,
    *,
    quantised: bool = False,
) -> tuple[Comparison, ...]:
    """Compare the file with the original, and with the torch model the methods believed in."""
    from onnxcompress.engine.graph.torchgraph import TorchGraph  # noqa: PLC0415

    decided = original.decided
    alike = made_alike(model.ir, read_proto(written), ways(original.model, decided))
    against_torch = partial(
        verify.against_torch,
        feeds=compared.feeds,
        inputs=compared.origin,
        random_inputs=compared.random,
        examples=compared.examples,
        threads=threads,
        decided=decided,
        unranked=compared.unranked,
    )
    plain = against_torch(TorchGraph(original.model).run, original.witness, tolerance=TORCH_TOLERANCE)
    floor = verify.worst(plain, decided)
    tolerance = max(TORCH_TOLERANCE, 4 * floor)
    if quantised:
        computes = TorchGraph(model).run
        tolerance = max(tolerance, quantised_tolerance(original, computes, compared, threads, decided))
    # What rounding turns around says nothing of the rest, and where it is made otherwise it is proven itself.
    names = {o.name for o in plain.outputs}
    allowed = {n: max(tolerance, 4 * verify.worst(plain, names - {n})) for n in names & (decided - alike)}
    believed = against_torch(TorchGraph(model).run, written, tolerance=tolerance, allowed=allowed)
    verify.require(believed)
    cost = compare_outputs(original.witness, written, compared, threads, decided=decided)
    verify.require(cost)
    return cost, believed


def _accuracy(original: Original, written: Path | bytes, task: Task | None, threads: int) -> Accuracy | None:
    if task is None or not task.labelled:
        return None
    after = runtime.open_session(written, threads=threads)
    return verify.accuracy(original.session.run, after.run, task)


def _benchmark(
    request: Request, original: Original, written: Path, names: tuple[str, str], compared: Compared
) -> Benchmark | None:
    if not request.benchmark:
        return None
    with originals.as_file(original.file) as before:
        models = dict(zip(names, (before, written), strict=True))
        return originals.latency(
            original, models, request.recipe.seed, request.threads, single=compared.single
        )
