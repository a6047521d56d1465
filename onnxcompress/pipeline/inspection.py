"""Inspection: what a model consists of, which weights a method could compress, and what is left alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from onnxcompress.core.model import Model
from onnxcompress.core.run import SCHEMA, Run, WeightFacts
from onnxcompress.core.version import VERSION
from onnxcompress.engine.layers import Layer, layers, left_alone
from onnxcompress.engine.measures import facts
from onnxcompress.engine.measures.costs import count_macs
from onnxcompress.pipeline import _original as originals


def inspect(
    source: Path,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    command: tuple[str, ...] | None = None,
) -> Run:
    """Return what is known of a model without training or timing it; ``weights`` holds its layers.

    Args:
        source: the file.
        input_shapes: concrete shapes of inputs with symbolic dimensions, at which MACs are counted.
        command: the command line, for the report.
    """
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    original = originals.open_original(source, input_shapes or {}, 1)
    found = layers(original.model)
    by_node = count_macs(original.model, original.shapes).by_node
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
        models=(facts.model_facts(original.file, original.model, original.shapes, name=source.name),),
        weights=tuple(_layer_facts(original.model, layer, by_node) for layer in found),
        refusals=left_alone(original.model, found),
    )
    return replace(run, duration_s=time.perf_counter() - began)


def _layer_facts(model: Model, layer: Layer, by_node: Mapping[str, int]) -> WeightFacts:
    weight, encoding = model.weights[layer.weight], model.encodings.get(layer.weight)
    dense = weight.size * weight.dtype.itemsize * 8
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
        bits_after=encoding.stored_bits() if encoding is not None else dense,
        relative_error=None,
        codebook=tuple(float(c) for c in codebook) if codebook is not None and codebook.ndim == 1 else None,
        histogram=facts.histogram(model.array(layer.weight)),
        role=layer.role,
        macs=sum(counted) if counted else None,
    )
