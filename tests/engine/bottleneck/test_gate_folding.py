"""Folding of gates: the silenced network with the means in its weights against the gated one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from gated_nets import NETS, RNG, gated, set_means
from pruning_models import model_of

from onnxcompress.engine.bottleneck.folding import folded, why_not
from onnxcompress.engine.channels import analyse, silenced
from onnxcompress.engine.graph.torchgraph import TorchGraph


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("inputs", [False, True])
def test_means_fold_exactly_negative_ones_too(name, inputs):
    make, shape = NETS[name]
    means_fold_exactly(make(), shape, inputs=inputs)


def means_fold_exactly(model, shape, *, inputs):
    """Compare the gated graph with the silenced one that has the means in its weights."""
    channels, groups, graph, gates = gated(model, {"x": (2, *shape)}, inputs=inputs, dtype=torch.float64)
    assert groups
    means = set_means(gates)
    masks = {g.name: np.arange(g.size) % 3 != 0 for g in groups}
    gates.keep(masks)
    x = np.random.default_rng(5).normal(size=(4, *shape))
    with gates.on(graph):
        wanted = graph.run({"x": x})["y"]
    arrays = folded(groups, means, {n: model.array(n).astype(np.float64) for n in model.weights})
    plain = TorchGraph(silenced(channels, masks), dtype=torch.float64)
    plain.set_arrays(arrays)
    np.testing.assert_allclose(plain.run({"x": x})["y"], wanted, rtol=1e-10, atol=1e-12)
    # Negative control: one weight not folded is seen.
    left_out = dict(arrays)
    first = next(iter(arrays))
    left_out[first] = model.array(first).astype(np.float64)
    plain.set_arrays(left_out)
    assert np.abs(plain.run({"x": x})["y"] - wanted).max() > 1e-3


def test_groups_whose_gates_cannot_be_folded_are_named():
    # The weight that meets the channels is read by an Add besides, as it is.
    tensors = {
        "w1": RNG.normal(size=(6, 6)), "w2": RNG.normal(size=(6, 3)), "w3": RNG.normal(size=(3, 2)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["a"], "g1", transB=1),
        helper.make_node("Relu", ["a"], ["b"], "r"),
        helper.make_node("MatMul", ["b", "w2"], ["c"], "m"),
        helper.make_node("ReduceSum", ["w2"], ["d"], "sum", keepdims=0),
        helper.make_node("Add", ["c", "d"], ["e"], "a1"),
        helper.make_node("MatMul", ["e", "w3"], ["y"], "m2"),
    ]
    model = model_of(nodes, tensors, (6,), 2)
    channels = analyse(model, {"x": (1, 6)})
    met = [g for g in channels.groups if any(s.weight == "w2" for s in g.sites)]
    assert met
    for group in met:
        assert "used elsewhere" in str(why_not(group, channels.model))
    site = channels.groups[0].sites[0]
    alone = replace(channels.groups[0], sites=(replace(site, weight=None, weight_axis=None),))
    assert "without a weight" in str(why_not(alone, channels.model))


def test_a_layer_run_twice_on_its_own_output_folds_too():
    """All four vectors are one group, whose gates are the same wherever the weight meets it."""
    tensors = {"w1": RNG.normal(size=(6, 6)), "w2": RNG.normal(size=(3, 6))}
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["a"], "g1", transB=1),
        helper.make_node("Relu", ["a"], ["b"], "r"),
        helper.make_node("Gemm", ["b", "w1"], ["c"], "g2", transB=1),
        helper.make_node("Gemm", ["c", "w2"], ["y"], "g3", transB=1),
    ]
    model = model_of(nodes, tensors, (6,), 3)
    assert not gated(model, {"x": (1, 6)})[1]  # the input among them
    means_fold_exactly(model, (6,), inputs=True)
