"""Sensitivity: what a method would do to the whole model, done to each layer alone and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from onnxcompress import exporter, surgery
from onnxcompress.core.errors import NothingChangedError, OutputError, UnsupportedError, UsageError
from onnxcompress.core.model import Model
from onnxcompress.core.plan import Plan
from onnxcompress.core.quantization import Quantization
from onnxcompress.core.resources import Resources
from onnxcompress.core.run import SCHEMA, MethodFacts, Run
from onnxcompress.core.sensitivity import LayerDamage, Sensitivity
from onnxcompress.core.task import Feeds, Task
from onnxcompress.core.version import VERSION
from onnxcompress.engine import runtime
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.damage import Damage, Yardstick
from onnxcompress.engine.data import Examples
from onnxcompress.engine.int8.prepare import prepare
from onnxcompress.engine.measures import facts
from onnxcompress.engine.quantizer import quantized
from onnxcompress.methods._base import Method, Needs
from onnxcompress.methods._options import options_of
from onnxcompress.pipeline import _data as datasets
from onnxcompress.pipeline import _original as originals
from onnxcompress.pipeline._lists import check_lists
from onnxcompress.pipeline._original import Original, Source
from onnxcompress.pipeline._repeatable import check_repeatable
from onnxcompress.recipe import Recipe

EXAMPLES = 50
"""Examples the damage is measured on, unless told otherwise."""

CALIBRATION = 100
"""Random examples for a method that needs data where none is given."""

OUTLIER = 3.0
"""A layer is fragile whose damage is clearly more than this times the median of all layers."""

HARMLESS = 0.01
"""Damage up to this makes no layer fragile, however little the others do."""


@dataclass(frozen=True)
class Part:
    """What a plan does to one layer: its name, in words, how globs know it, and the model after."""

    name: str
    changed: str
    known_as: tuple[str, ...]
    model: Callable[[], bytes]


@dataclass(frozen=True)
class Ranked:
    """A run, and the names to leave alone."""

    run: Run
    exclude: tuple[str, ...]


def sensitivity(
    source: Source,
    recipe: Recipe,
    *,
    examples: int = EXAMPLES,
    above: float | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    threads: int = 1,
    resources: Resources | None = None,
    command: tuple[str, ...] | None = None,
) -> Ranked:
    """Rank the layers of a model by the damage that compressing each alone does.

    The method decides once, for the whole model, and without training if it can; each part of its plan is
    then carried out alone.

    Args:
        source: the model.
        recipe: one method with its options, data options, seed.
        examples: inputs the damage is measured on.
        above: damage (relative ℓ2) above which a layer is fragile; None: clearly more than three times the
            median.
        input_shapes: concrete shapes of inputs with symbolic dimensions.
        threads: onnxruntime's threads.
        resources: device, progress.
        command: the command line, for the report.

    Raises:
        UsageError: not exactly one method, or one that only training can let decide, and no data.
        NothingChangedError: the method would change nothing.
    """
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    if len(recipe.methods) != 1:
        raise UsageError("sensitivity is that to one method", why=f"found {len(recipe.methods)}")
    method, seed = recipe.methods[0], recipe.seed
    _check_data(method, recipe)
    original = originals.open_original(source, threads)
    data = datasets.read(original, recipe.data)
    original = datasets.with_sizes(original, input_shapes or {}, data)
    check_repeatable(original, seed)
    original, _ = originals.with_stored_weights(original)
    check_lists(recipe, original.model)
    task = _task(original, recipe, data, examples)
    original = datasets.with_sizes_of_task(original, task, input_shapes or {})
    calls = _calls(task, examples)
    progress = (resources or Resources()).progress
    progress(0.0, "deciding", None)
    given = replace(resources or Resources(), input_shapes=original.shapes, seed=seed, threads=threads)
    # Imported here: a model or data that cannot be read is told at once.
    from onnxcompress.engine.torch_settings import own_settings  # noqa: PLC0415

    deciding = time.perf_counter()
    with own_settings(threads):
        plan = method.plan(original.model, task if method.needs is not Needs.NOTHING else None, given)
    done = MethodFacts(
        method.name,
        options_of(method),
        method.source,
        method.summary,
        time.perf_counter() - deciding,
        plan.training,
    )
    parts = list(parts_of(plan, original.model, original.shapes))
    if not parts:
        raise NothingChangedError(
            f"method {method.name!r} would change no layer of this model",
            where=original.model.source.path,
            why="; ".join(dict.fromkeys(r.why for r in plan.refusals)) or None,
        )
    yardstick = Yardstick(original.session.run, calls, without=task.decided)
    if not yardstick.outputs:
        raise UsageError("the model has no floating-point output", why="damage is measured on those")
    damages = []
    for index, part in enumerate(parts):
        progress((index + 1) / (len(parts) + 1), f"layer {index + 1} of {len(parts)}", None)
        damages.append(yardstick.measure(runtime.open_session(part.model(), threads=threads).run))
    origin = f"{len(calls)} {'seeded random inputs' if task.random else 'training examples'}"
    found = rank(
        parts, damages, method=_told(method), inputs=origin, random=task.random, seed=seed, above=above
    )
    fragile = {layer.name for layer in found.layers if layer.fragile}
    exclude = dict.fromkeys(name for part in parts if part.name in fragile for name in part.known_as)
    run = Run(
        schema=SCHEMA,
        version=VERSION,
        kind="sensitivity",
        command=command,
        recipe=recipe.to_dict(),
        seed=seed,
        started=started,
        duration_s=time.perf_counter() - began,
        environment=facts.environment(),
        models=(facts.model_facts(original.file, original.model, original.shapes),),
        methods=(done,),
        refusals=plan.refusals,
        warnings=(*task.warnings, *_warnings(task, len(calls))),
        sensitivity=found,
    )
    return Ranked(run, tuple(exclude))


def _check_data(method: Method, recipe: Recipe) -> None:
    """Raise UsageError where a method would train on random numbers that nobody asked for."""
    if (
        method.trains
        and method.needs is not Needs.NOTHING
        and recipe.data.get("path") is None
        and not recipe.data.get("random")
    ):
        raise UsageError(
            f"method {method.name!r} needs data: it decides by training",
            fix="give inputs with --data, or --random-data to train on random numbers",
        )


def rank(
    parts: list[Part],
    damages: list[Damage],
    *,
    method: str,
    inputs: str,
    random: bool,
    seed: int,
    above: float | None = None,
) -> Sensitivity:
    """Return the layers by damage with their intervals, and which of them stand out."""
    rng = np.random.default_rng(seed)
    sizes = [damage.relative_l2() for damage in damages]
    told = [size for size in sizes if math.isfinite(size)] or [0.0]
    threshold = max(HARMLESS, OUTLIER * float(np.median(told))) if above is None else above
    layers = []
    for part, damage, size in zip(parts, damages, sizes, strict=True):
        low, high = damage.interval(rng)
        # Without a number once is once too often, however sure the rest is.
        fragile = math.isinf(size) or low > threshold
        layers.append(LayerDamage(part.name, size, low, high, part.changed, fragile))
    layers.sort(key=lambda layer: -layer.relative_l2)
    examples = len(damages[0].changes)
    return Sensitivity(method, examples, inputs, random, tuple(layers), None, threshold)


def parts_of(plan: Plan, model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Part]:
    """Yield what a plan does to each layer, one after the other."""
    if plan.quantization is not None:
        yield from _quantised(plan.quantization, model, shapes)
        return
    for name, encoding in plan.weights.items():
        error = facts.relative_error(model.array(name), encoding.decode())
        told = f"stored as {encoding.kind}, moved by {error:.2g} of its size"

        def encoded(name: str = name) -> bytes:
            return exporter.dense_bytes(model.with_encodings({name: plan.weights[name]}, "one layer"))

        yield Part(name, told, (name,), encoded)
    if any(not np.all(mask) for mask in plan.keep.values()):
        channels = analyse(model, shapes)
        for name, mask in plan.keep.items():
            if np.all(mask):
                continue
            group = channels.group(name)
            made = dict.fromkeys(m.tensor for m in group.members if not m.consumes)
            weights = tuple(t for t in made if t in model.weights and len(model.weights[t].shape) > 1)

            def silenced(name: str = name) -> bytes:
                return exporter.dense_bytes(surgery.cut(channels, {name: plan.keep[name]}).model)

            yield Part(
                name, f"{int(np.sum(mask))} of {group.size} channels kept", weights or (name,), silenced
            )


def _quantised(decision: Quantization, model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Part]:
    prepared = prepare(model, shapes)
    for node in decision.nodes:
        static = node in decision.static
        alone = replace(
            decision, static=(node,) if static else (), carriers=(), dynamic=() if static else (node,)
        )

        def written(alone: Quantization = alone) -> bytes:
            return bytes(quantized(prepared.proto, alone).SerializeToString())

        weight = prepared.weights.get(node, node)
        yield Part(weight, f"8 bits, {'static' if static else 'dynamic'}", (weight,), written)


def save(path: Path, ranked: Ranked) -> None:
    """Write what ``--exclude-file`` and recipes read: the names to leave alone, and why.

    Raises:
        OutputError: the file cannot be written.
    """
    import tomli_w  # noqa: PLC0415

    found = ranked.run.sensitivity
    assert found is not None
    content: dict[str, Any] = {
        "exclude": list(ranked.exclude),
        "method": found.method,
        "inputs": found.inputs,
        "model_sha256": ranked.run.models[0].sha256,
        "threshold": found.threshold,
        "layer": [
            {"name": la.name, "damage": la.relative_l2, "low": la.low, "high": la.high, "fragile": la.fragile}
            for la in found.layers
        ],
    }
    try:
        path.write_text(tomli_w.dumps(content), encoding="utf-8")
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise OutputError("cannot write the list of layers", where=str(path), why=why) from error


def _task(original: Original, recipe: Recipe, data: datasets.Given, examples: int) -> Task:
    """Return the data, or seeded random inputs where there is none."""
    options, seed = recipe.data, recipe.seed
    if options.get("path") is not None:
        return datasets.data_task(original, data, seed)
    if not original.session.inputs:
        raise UnsupportedError(
            "the model has no inputs, so that nothing can be said of its damage",
            where=original.model.source.path,
            why="damage is how far outputs move over inputs",
        )
    drawn = datasets.random_examples(original, max(examples, CALIBRATION), seed)
    return datasets.task_of(original, drawn, options, seed)


def _calls(task: Task, examples: int) -> tuple[Feeds, ...]:
    """Return some training examples, one a call where the model allows it."""
    assert isinstance(task.samples, Examples)
    rng = np.random.default_rng(task.seed)
    some = np.sort(rng.permutation(task.train)[:examples])
    return tuple(feed for _, feed in task.samples.feeding.calls(task.samples.inputs(some), 1))


def _told(method: Method) -> str:
    changed = {
        name: value
        for name, value in options_of(method).items()
        if value != getattr(type(method)(), name) and value not in (None, ())
    }
    words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items())
    return f"{method.name} {words}".strip()


def _warnings(task: Task, examples: int) -> tuple[str, ...]:
    said = []
    if task.random:
        said.append("damage was measured on random inputs: real ones may rank layers otherwise; give --data")
    if examples < 10:
        said.append(f"damage was measured on {examples} inputs only: the intervals say little")
    return tuple(said)
