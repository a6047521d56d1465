"""Low-rank weights become two layers, and what is told of them afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnxcompress.core.encoding import Encoding
from onnxcompress.core.model import Model
from onnxcompress.core.task import Feeds
from onnxcompress.encodings.lowrank import LowRank
from onnxcompress.surgery.factoring import Factored, factor
from onnxcompress.surgery.factoring_proof import prove_factoring


@dataclass(frozen=True, eq=False)
class TwoLayers:
    """A model whose low-rank weights are two layers each.

    Attributes:
        model: the model.
        layers: weight name -> what it became.
        warnings: sentences the user must see.
    """

    model: Model
    layers: Mapping[str, Factored] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def two_layers(
    model: Model, shapes: Mapping[str, tuple[int, ...]], *, feeds: Sequence[Feeds], seed: int
) -> TwoLayers:
    """Split every layer whose weight is low-rank, and prove that nothing else changed.

    Args:
        model: the model, with its weights encoded.
        shapes: input name -> concrete shape.
        feeds: inputs to prove it on, besides random ones.
        seed: of the random inputs.

    Raises:
        VerificationError: the two layers compute something else.
    """
    if not any(isinstance(encoding, LowRank) for encoding in model.encodings.values()):
        return TwoLayers(model)
    result = factor(model)
    if result.layers:
        prove_factoring(model, result, shapes, feeds=feeds, seed=seed)
    return TwoLayers(result.model, result.layers, result.warnings)


@dataclass(frozen=True, eq=False)
class _Stored(LowRank):
    """Two factors that a later method stores in fewer bits."""

    bits: int = 0

    def stored_bits(self) -> int:
        """Bits of both as they are stored."""
        return self.bits


def as_stored(after: Model, layer: Factored) -> Encoding | None:
    """Return how a factored weight is stored in a later model; None where a factor is gone."""
    names = layer.left, layer.right
    if not all(name in after.weights for name in names):
        return None
    left, right = layer.factors(*(after.array(name) for name in names))
    bits = 0
    for name in names:
        encoding = after.encodings.get(name)
        bits += 8 * after.array(name).nbytes if encoding is None else encoding.stored_bits()
    layout, shape = layer.encoding.layout, list(layer.encoding.shape)
    # Channels that were cut are missing along the first axis of either side.
    for axes, count in ((layout.rows, left.shape[0]), (layout.columns, right.shape[1])):
        shape[axes[0]] = count // math.prod(shape[a] for a in axes[1:])
    return _Stored(left, right, tuple(shape), layout, bits)
