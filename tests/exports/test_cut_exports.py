"""Half of all channels cut out of what torch's two exporters write: proven, and nothing left out silently."""

from __future__ import annotations

import numpy as np
import pytest
import zoo

from onnxcompress import importer, surgery
from onnxcompress.engine import feeds, runtime
from onnxcompress.engine.channels import analyse

pytest.importorskip("onnxscript", reason="torch's exporters need onnxscript")

LEAST = {"excite": 0.55, "super_resolution": 0.5, "cnn": 0.45, "shufflenet_v2_x0_5": 0.5}
"""Share of the parameters that must go; elsewhere 0.63, as a quarter stays where both its sides are cut."""

LEFT = {
    "cnn": 1469, "lstm": 3285, "gru": 2453, "bert": 7877, "gpt": 8330, "encoder": 808, "lstm_tagger": 2799,
    "gru_tagger": 2319, "unet": 14666, "yolo": 52731, "super_resolution": 5045, "excite": 1073,
}  # fmt: skip
"""Parameters that half of every group leaves of the small networks, written by the older exporter."""


def half(channels, seed=0):
    """Return masks that drop a random half of every group."""
    random = np.random.default_rng(seed)
    keep = {}
    for group in channels.free:
        keep[group.name] = np.ones(group.size, bool)
        keep[group.name][random.permutation(group.size)[: group.size // 2]] = False
    return keep


def check(name, exporter, **options):
    net, inputs = zoo.build(name)
    proto = zoo.export(net, inputs, exporter, **options)
    model = importer.load(proto)
    shapes = feeds.resolve_shapes(model, runtime.open_session(proto.SerializeToString()), {})
    channels = analyse(model, shapes)
    assert not channels.unknown
    keep = half(channels)
    found = surgery.cut(channels, keep)
    proof = surgery.prove(channels, keep, found)
    assert proof.float64_error <= 1e-12
    assert proof.ort_error <= 1e-4
    assert not proof.silent_outputs
    weights = {name: weight.shape for name, weight in found.model.weights.items()}
    assert weights == {name: channels.cut_shape(name, keep) for name in model.weights}
    before, after = (sum(w.size for w in m.weights.values()) for m in (model, found.model))
    assert after <= (1 - LEAST.get(name, 0.63)) * before
    if exporter == "torchscript" and not options and name in LEFT:
        assert after == LEFT[name]
    return proof


SMALL = [(name, "torchscript") for name in zoo.SMALL] + [
    # The new exporter takes seconds for each network.
    pytest.param(name, "dynamo", marks=() if name == "gru_tagger" else pytest.mark.slow)
    for name in zoo.SMALL
]


@pytest.mark.parametrize(("name", "exporter"), SMALL)
def test_small_networks(name, exporter):
    check(name, exporter)


@pytest.mark.parametrize(
    "name", ["excite", "yolo", "bert", "lstm_tagger", "unet", "super_resolution", "encoder"]
)
def test_any_batch(name):
    """With a batch that may vary, exporters compute shapes in the graph; the proof runs two sizes."""
    assert check(name, "torchscript", dynamic_batch=True).sizes == 2


def test_heads_and_examples_on_one_axis():
    assert check("encoder", "dynamo", dynamic_batch=True).sizes == 2


@pytest.mark.slow
@pytest.mark.parametrize("exporter", zoo.EXPORTERS)
@pytest.mark.parametrize("name", zoo.LARGE)
def test_large_networks(name, exporter):
    check(name, exporter)
