"""What torch's two exporters write today, executed in torch again: outputs and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo

from onnxcompress import importer
from onnxcompress.engine import runtime
from onnxcompress.engine.graph.torchgraph import TorchGraph

pytest.importorskip("onnxscript", reason="torch's exporters need onnxscript")


def check(net, inputs, exporter):
    torch.manual_seed(0)
    proto = zoo.export(net, inputs, exporter)
    graph = TorchGraph(importer.load(proto))
    feeds = {f"input_{k}": x.numpy() for k, x in enumerate(inputs)}
    expected = runtime.open_session(proto.SerializeToString()).run(feeds)
    found = graph.run(feeds)
    for name, want in expected.items():
        assert np.linalg.norm(want) > 1e-3
        assert np.linalg.norm(found[name] - want) <= 1e-4 * np.linalg.norm(want)
    assert set(graph.ways().values()) == {"own"}
    assert graph.without_gradient() == ()
    generator = torch.Generator().manual_seed(0)
    graph.train(False)
    outputs = graph(feeds)
    sum((o * torch.randn(o.shape, generator=generator)).sum() for o in outputs.values()).backward()
    missing = [n for n in graph.trainable if graph.weight(n).grad is None]
    assert not missing
    trained = sum(graph.weight(n).numel() for n in graph.trainable)
    assert trained >= 0.95 * sum(p.numel() for p in net.parameters())
    dead = [n for n in graph.trainable if not graph.weight(n).grad.isfinite().all()]
    assert not dead


SMALL = [(name, "torchscript") for name in zoo.SMALL] + [
    # The new exporter takes seconds for each network.
    pytest.param(name, "dynamo", marks=() if name == "gpt" else pytest.mark.slow)
    for name in zoo.SMALL
]


@pytest.mark.parametrize(("name", "exporter"), SMALL)
def test_small_networks(name, exporter):
    net, inputs = zoo.build(name)
    check(net, inputs, exporter)


@pytest.mark.slow
@pytest.mark.parametrize("exporter", zoo.EXPORTERS)
@pytest.mark.parametrize("name", zoo.LARGE)
def test_vision_networks(name, exporter):
    net, inputs = zoo.build(name)
    check(net, inputs, exporter)
