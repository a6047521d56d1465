"""Real models with every layer factored that can be: proven in float64, and the work is what was foretold."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxcompress.encodings._layout import most_useful
from onnxcompress.encodings.lowrank import FixedRank
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.factors import ways, work
from onnxcompress.engine.layers import layers
from onnxcompress.engine.measures.costs import count_macs
from onnxcompress.pipeline._data import Given, with_sizes
from onnxcompress.pipeline._original import open_original
from onnxcompress.surgery.factoring import factor
from onnxcompress.surgery.factoring_proof import prove_factoring

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODELS.exists(), reason="the folder ../shared with real models is missing"),
]

FACTORED = {
    "mnist_cntk": 3,
    "cifar_cnn_tutorial": 5,
    "squeezenet_fp16": 26,
    "dtln_1": 1,
    "dtln_2": 7,
}
"""Layers that are worth it: convolutions without groups and products, those of dtln_1's LSTMs left out."""


@pytest.mark.parametrize("scheme", ["1", "2"])
@pytest.mark.parametrize("name", FACTORED)
def test_every_layer_that_can_is_two_and_computes_the_same(name, scheme):
    original = with_sizes(open_original(MODELS / f"{name}.onnx", 1), {}, Given())
    model, shapes = original.model, original.shapes
    traced = {v.name: s for v, s in analyse(model, shapes).ground.trace.shapes.items()}
    encodings, foretold = {}, count_macs(model, shapes).total
    for layer in layers(model):
        found = ways(model.weights[layer.weight], scheme)
        if isinstance(found, str):
            continue
        rank = min(most_useful(layer.shape, found.layouts[0]), 6)
        costs = work(found, layer.shape, lambda v: traced.get(v.name))
        if rank > 0:
            encodings[layer.weight] = FixedRank(rank, layouts=found.layouts).project(
                [model.array(layer.weight)]
            )[0]
            foretold += encodings[layer.weight].rank * costs.ways[0].cost - costs.whole
    assert len(encodings) == FACTORED[name]
    encoded = model.with_encodings(encodings, "test")
    result = factor(encoded)
    assert len(result.layers) == FACTORED[name]
    assert result.model.ir.ir_version == model.ir.ir_version
    proof = prove_factoring(encoded, result, shapes)
    assert proof is not None
    assert proof.error < 1e-12
    assert count_macs(result.model, shapes).total == foretold
