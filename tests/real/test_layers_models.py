"""Layers of every real model: nothing large is missed, and what is left alone has a reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from onnxcompress import importer
from onnxcompress.engine.layers import layers, left_alone

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
FILES = sorted(p for p in MODELS.glob("*.onnx") if p.stem != "pcb_aoi")  # needs an operator nobody has

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not FILES, reason="the folder ../shared with real models is missing"),
]

CONSUMERS = {
    "lenet300_lc_reference": {"Gemm": 3},
    "mnist_cntk": {"Conv": 2, "MatMul": 1},
    "magika_v3_3": {"Conv": 1, "MatMul": 2},
    "dtln_1": {"MatMul": 1, "LSTM": 4},
    "silero_vad_v62": {"Conv": 12, "LSTM": 8},
    "fns_candy": {"Conv": 14, "ConvTranspose": 2},
    "ppocr_rec_en_num": {"Conv": 53, "MatMul": 1, "LSTM": 8},
    "squeezenet_fp16": {"Conv": 26},
}
"""Uses of layer weights by operator, counted in the graphs with another program."""

LARGE = 1024
"""Elements from which on a tensor of two axes or more that is no layer needs an explanation here."""

KNOWN = {"ultraface_rfb320": "anchors", "mnist_quantized": "already 8 bits"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_large_tensor_is_a_layer_or_known(path):
    model = importer.load(path)
    found = layers(model)
    if path.stem in CONSUMERS:
        assert Counter(c.op_type for la in found for c in la.consumers) == CONSUMERS[path.stem]
    refusals = left_alone(model, found)
    large = {r.where: r.why for r in refusals if model.weights[r.where].size > LARGE}
    assert not large or path.stem in KNOWN, large
    matrices = {name for name, w in model.weights.items() if len(w.shape) >= 2}
    assert matrices <= {la.weight for la in found} | {r.where for r in refusals}
    share = sum(la.size for la in found) / sum(w.size for w in model.weights.values())
    assert share > 0.85 or path.stem == "mnist_quantized"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_output_axis_has_the_length_that_the_consumer_gives_out(path):
    model = importer.load(path)
    for layer in layers(model):
        assert layer.out_axis is None or 0 <= layer.out_axis < len(layer.shape)
        if {c.op_type for c in layer.consumers} == {"Conv"} and len(layer.shape) == 4:
            assert layer.out_axis == 0
        if {c.op_type for c in layer.consumers} == {"MatMul"} and len(layer.shape) == 2:
            assert layer.out_axis in (0, 1, None)
