"""What torch's two exporters write today, executed in torch again: outputs and gradients."""

from __future__ import annotations

import io
import warnings

import nets
import numpy as np
import onnx
import pytest
import torch

from onnxcompress import importer
from onnxcompress.engine import runtime
from onnxcompress.engine.graph import foreign_onnx2torch
from onnxcompress.engine.graph.torchgraph import TorchGraph

pytest.importorskip("onnxscript", reason="torch's exporters need onnxscript")

EXPORTERS = ["torchscript", "dynamo"]


def export(net, inputs, exporter):
    """Return the ONNX model of a network in evaluation mode."""
    names = [f"input_{k}" for k in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            program = torch.onnx.export(net.eval(), inputs, input_names=names, dynamo=True, verbose=False)
            return program.model_proto
        target = io.BytesIO()
        torch.onnx.export(net.eval(), inputs, target, input_names=names, dynamo=False)
    return onnx.load_from_string(target.getvalue())


def check(net, inputs, exporter):
    torch.manual_seed(0)
    proto = export(net, inputs, exporter)
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


SMALL = [(name, "torchscript") for name in nets.SMALL] + [
    # The new exporter takes seconds for each network.
    pytest.param(name, "dynamo", marks=() if name == "gpt" else pytest.mark.slow)
    for name in nets.SMALL
]


@pytest.mark.parametrize(("name", "exporter"), SMALL)
def test_small_networks(name, exporter):
    torch.manual_seed(0)
    net, inputs = nets.SMALL[name]()
    check(net, inputs, exporter)


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", nets.LARGE)
def test_vision_networks(name, exporter):
    foreign_onnx2torch.library()  # makes torchvision importable beside a torch it was not built for
    torch.manual_seed(0)
    net, inputs = nets.LARGE[name]()
    check(net, inputs, exporter)
