"""Inspection: what a model consists of, which weights a method could compress, and what is left alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from onnxcompress import importer
from onnxcompress.core.channel_facts import ChannelFacts
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.core.model import Model
from onnxcompress.core.run import SCHEMA, Run, WeightFacts
from onnxcompress.core.version import VERSION
from onnxcompress.engine import feeds, runtime
from onnxcompress.engine.layers import Layer, layers, left_alone
from onnxcompress.engine.measures import facts
from onnxcompress.engine.measures.costs import count_macs
from onnxcompress.engine.proto import plain_bytes
from onnxcompress.engine.storage.pool import stored_bits
from onnxcompress.pipeline._channels import channel_facts
from onnxcompress.surgery import store_computed_weights


def inspect(
    source: Path,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    groups: bool = True,
    command: tuple[str, ...] | None = None,
) -> Run:
    """Return what is known of a model without training or timing it; ``weights`` holds its layers.

    Args:
        source: the file.
        input_shapes: concrete shapes of inputs with symbolic dimensions, at which MACs are counted.
        groups: find the channel groups too, which runs the model and may import torch.
        command: the command line, for the report.

    Raises:
        ModelImportError: the file is not a model, or onnxruntime does not know all of it.
        UsageError: ``input_shapes`` names an input that does not exist, or does not fit.
    """
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    model, shapes, problem = _opened(source, input_shapes or {})
    found, sizes = layers(model), stored_bits(model)
    by_node = count_macs(model, shapes).by_node if shapes else {}
    channels = None
    if groups:
        channels = ChannelFacts(problem=problem) if problem else channel_facts(model, shapes)
    run = Run(
        schema=SCHEMA,
        version=VERSION,
        kind="inspect",
        command=command,
        recipe={},
        seed=0,
        started=started,
        duration_s=0.0,
        environment=facts.environment(),
        models=(facts.model_facts(source, model, shapes or None, name=source.name),),
        weights=tuple(_layer_facts(model, layer, by_node, sizes) for layer in found),
        refusals=left_alone(model, found),
        channels=channels,
    )
    return replace(run, duration_s=time.perf_counter() - began)


def _opened(
    source: Path, input_shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Model, Mapping[str, tuple[int, ...]], str | None]:
    """Return the model, shapes of its inputs, and why it cannot be run; None where it can.

    What can be told without running a model is told of one too for which no inputs are found that it takes.
    """
    model, _ = store_computed_weights(importer.load(source))
    session = runtime.open_session(source, threads=1)
    try:
        return model, feeds.resolve_shapes(model, session, input_shapes), None
    except UnsupportedError as error:
        known = {i.name: tuple(d for d in i.shape if isinstance(d, int)) for i in session.inputs}
        given = {i.name: known[i.name] for i in session.inputs if len(known[i.name]) == len(i.shape)}
        shapes = {**given, **input_shapes}
        complete = all(i.name in shapes for i in session.inputs)
        return model, shapes if complete else {}, f"channels could not be traced: {error}"


def _layer_facts(
    model: Model, layer: Layer, by_node: Mapping[str, int], sizes: Mapping[str, int]
) -> WeightFacts:
    weight, encoding = model.weights[layer.weight], model.encodings.get(layer.weight)
    dense = 8 * plain_bytes(weight)
    codebook = encoding.codebook() if encoding is not None else None
    counted = [by_node[c.node] for c in layer.consumers if c.node in by_node]
    return WeightFacts(
        name=layer.weight,
        shape=layer.shape,
        dtype=str(weight.dtype),
        consumers=tuple(f"{c.node} ({c.op_type})" for c in layer.consumers),
        encoding=encoding.kind if encoding is not None else "dense",
        entries=int(codebook.shape[-1]) if codebook is not None and codebook.ndim else None,
        bits_before=dense,
        bits_after=sizes.get(layer.weight, dense),
        relative_error=None,
        codebook=tuple(float(c) for c in codebook) if codebook is not None and codebook.ndim == 1 else None,
        histogram=facts.histogram(model.array(layer.weight)),
        role=layer.role,
        macs=sum(counted) if counted else None,
        rank=facts.rank_of(encoding),
    )
