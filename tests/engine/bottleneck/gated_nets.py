"""Small networks with gates, of every kind of site."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from onnx import helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from pruning_models import conv_net, mlp, model_of

from onnxcompress.engine.bottleneck.choice import gated_groups
from onnxcompress.engine.bottleneck.gates import Gates
from onnxcompress.engine.channels import analyse, site_key, tapped
from onnxcompress.engine.graph.torchgraph import TorchGraph

RNG = np.random.default_rng(0)


def gated(model, shapes, *, inputs=False, dtype=torch.float32):
    """Return (channels, groups, graph with taps, gates)."""
    channels = analyse(model, shapes)
    groups, _ = gated_groups(channels, (), (), inputs=inputs)
    twin, taps = tapped(channels, [s for g in groups for s in g.sites])
    graph = TorchGraph(twin, dtype=dtype)
    return channels, groups, graph, Gates(groups, taps, site_key, seed=0).to(dtype)


def set_means(gates, seed=1):
    """Give every gate a mean of its own, half of them negative; return them."""
    rng, means = np.random.default_rng(seed), {}
    for group in gates.groups:
        means[group.name] = rng.uniform(0.5, 1.5, group.size) * rng.choice([-1, 1], group.size)
        with torch.no_grad():
            gates[group.name].mean.copy_(torch.from_numpy(means[group.name]))
    return means


def grouped_net():
    """Conv, Relu, Conv of 2 groups, Sigmoid, depthwise Conv, Flatten, Gemm: sites of every kind."""
    tensors = {
        "w1": RNG.normal(size=(8, 3, 3, 3)), "b1": RNG.normal(size=8),
        "w2": RNG.normal(size=(12, 4, 3, 3)), "b2": RNG.normal(size=12),
        "w3": RNG.normal(size=(12, 1, 3, 3)), "w4": RNG.normal(size=(5, 12 * 4)), "b4": RNG.normal(size=5),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "c1"),
        helper.make_node("Relu", ["a"], ["b"], "r"),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], "c2", group=2),
        helper.make_node("Sigmoid", ["c"], ["d"], "s"),
        helper.make_node("Conv", ["d", "w3"], ["e"], "c3", group=12),
        helper.make_node("Flatten", ["e"], ["f"], "fl"),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"], "fc", transB=1),
    ]
    return model_of(nodes, tensors, (3, 8, 8), 5)


def matmul_net():
    """Two layers as MatMul and Add, on N T 6."""
    tensors = {
        "w1": RNG.normal(size=(6, 10)), "b1": RNG.normal(size=10), "w2": RNG.normal(size=(10, 4)),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "m1"),
        helper.make_node("Add", ["a", "b1"], ["b"], "a1"),
        helper.make_node("Tanh", ["b"], ["c"], "t"),
        helper.make_node("MatMul", ["c", "w2"], ["d"], "m2"),
        helper.make_node("ReduceMean", ["d"], ["y"], "mean", axes=[1], keepdims=0),
    ]
    return model_of(nodes, tensors, (3, 6), 4)


def reshaped_net():
    """Conv, Relu, Reshape to rows, MatMul with a weight that is stored as C H W out."""
    tensors = {
        "w1": RNG.normal(size=(6, 3, 3, 3)), "b1": RNG.normal(size=(6, 1, 1)),
        "w2": RNG.normal(size=(6, 6, 6, 5)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "c1"),
        helper.make_node("Add", ["a", "b1"], ["b"], "a1"),
        helper.make_node("Relu", ["b"], ["c"], "r"),
        helper.make_node("Constant", [], ["s1"], "k1", value_ints=[-1, 216]),
        helper.make_node("Reshape", ["c", "s1"], ["d"], "r1"),
        helper.make_node("Constant", [], ["s2"], "k2", value_ints=[216, 5]),
        helper.make_node("Reshape", ["w2", "s2"], ["w"], "r2"),
        helper.make_node("MatMul", ["d", "w"], ["y"], "fc"),
    ]
    return model_of(nodes, tensors, (3, 8, 8), 5)


def residual_net():
    """Conv, then twice a layer whose output is added to its input: one group makes and meets a weight."""
    tensors = {
        "w1": RNG.normal(size=(8, 3, 3, 3)), "w2": RNG.normal(size=(8, 8, 3, 3)), "b2": RNG.normal(size=8),
        "w3": RNG.normal(size=(8, 4, 3, 3)), "w4": RNG.normal(size=(5, 8)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "c1"),
        helper.make_node("Conv", ["a", "w2", "b2"], ["b"], "c2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["b"], ["c"], "r"),
        helper.make_node("Add", ["a", "c"], ["d"], "a1"),
        helper.make_node("Conv", ["d", "w3"], ["e"], "c3", pads=[1, 1, 1, 1], group=2),
        helper.make_node("Tanh", ["e"], ["f"], "t"),
        helper.make_node("Add", ["d", "f"], ["g"], "a2"),
        helper.make_node("GlobalAveragePool", ["g"], ["h"], "p"),
        helper.make_node("Flatten", ["h"], ["i"], "fl"),
        helper.make_node("Gemm", ["i", "w4"], ["y"], "fc", transB=1),
    ]
    return model_of(nodes, tensors, (3, 8, 8), 5)


def stored_flat_net():
    """Convolutions whose weights are stored as rows, one of them in groups and turned."""
    tensors = {
        "w1": RNG.normal(size=(8, 3, 3, 3)), "b1": RNG.normal(size=8),
        "w2": RNG.normal(size=(6, 8 * 9)), "w3": RNG.normal(size=(3, 4, 1, 1)),
        "w4": RNG.normal(size=(5, 4)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "c1"),
        helper.make_node("Relu", ["a"], ["b"], "r"),
        helper.make_node("Constant", [], ["s"], "k", value_ints=[6, 8, 3, 3]),
        helper.make_node("Reshape", ["w2", "s"], ["w2r"], "r2"),
        helper.make_node("Conv", ["b", "w2r"], ["c"], "c2"),
        helper.make_node("Sigmoid", ["c"], ["d"], "s"),
        helper.make_node("Transpose", ["w3"], ["w3t"], "t", perm=[1, 0, 2, 3]),
        helper.make_node("Conv", ["d", "w3t"], ["e"], "c3", group=2),
        helper.make_node("GlobalAveragePool", ["e"], ["p"], "p"),
        helper.make_node("Flatten", ["p"], ["f"], "fl"),
        helper.make_node("Gemm", ["f", "w4"], ["y"], "fc", transB=1),
    ]
    return model_of(nodes, tensors, (3, 8, 8), 5)


NETS = {
    "stored flat": (stored_flat_net, (3, 8, 8)),
    "residual": (residual_net, (3, 8, 8)),
    "reshaped": (reshaped_net, (3, 8, 8)),
    "conv": (conv_net, (3, 8, 8)),
    "grouped": (grouped_net, (3, 8, 8)),
    "matmul": (matmul_net, (3, 6)),
    "mlp": (lambda: mlp(RNG.normal(size=(9, 6)), RNG.normal(size=(3, 9))), (6,)),
}
