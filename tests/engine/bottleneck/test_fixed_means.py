"""Gates whose mean no weight could take in: two activations are multiplied, or a weight is tied."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper, parser

sys.path.insert(0, str(Path(__file__).parents[1]))
from gated_nets import RNG
from pruning_models import model_of, task_for

from onnxcompress import importer
from onnxcompress.core.resources import Resources
from onnxcompress.engine.bottleneck import choice
from onnxcompress.engine.bottleneck.choice import gated_groups
from onnxcompress.engine.bottleneck.folding import why_not
from onnxcompress.engine.bottleneck.gates import Gates
from onnxcompress.engine.bottleneck.pressure import Pressure
from onnxcompress.engine.channels import analyse, silenced, site_key, tapped
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.methods.vib import Vib


def products_net():
    """Queries and keys of six channels, whose products weigh values; on N T 5."""
    tensors = {"q": RNG.normal(size=(5, 6)), "k": RNG.normal(size=(5, 6)), "v": RNG.normal(size=(5, 4))}
    nodes = [
        helper.make_node("MatMul", ["x", "q"], ["a"], "mq"),
        helper.make_node("MatMul", ["x", "k"], ["b"], "mk"),
        helper.make_node("Transpose", ["b"], ["c"], "t", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "c"], ["d"], "products"),
        helper.make_node("Softmax", ["d"], ["e"], "s", axis=-1),
        helper.make_node("MatMul", ["x", "v"], ["f"], "mv"),
        helper.make_node("MatMul", ["e", "f"], ["g"], "m"),
        helper.make_node("ReduceMean", ["g"], ["y"], "mean", axes=[1], keepdims=0),
    ]
    return model_of(nodes, tensors, (3, 5), 4)


def tied_net():
    """An autoencoder whose second layer is the first one's weight, transposed, between two others."""
    tensors = {"u": RNG.normal(size=(5, 8)), "w": RNG.normal(size=(8, 6)), "z": RNG.normal(size=(8, 5))}
    nodes = [
        helper.make_node("Gemm", ["x", "u"], ["a"], "g1"),
        helper.make_node("Relu", ["a"], ["b"], "r1"),
        helper.make_node("Gemm", ["b", "w"], ["c"], "g2"),
        helper.make_node("Tanh", ["c"], ["d"], "t"),
        helper.make_node("Gemm", ["d", "w"], ["e"], "g3", transB=1),
        helper.make_node("Relu", ["e"], ["f"], "r2"),
        helper.make_node("Gemm", ["f", "z"], ["y"], "g4"),
    ]
    return model_of(nodes, tensors, (5,), 5)


NETS = {"products": (products_net, (3, 5)), "tied": (tied_net, (5,))}


def fixed_gates(name, dtype=torch.float32):
    """Return (channels, groups, graph with taps, gates): no group's mean could be folded."""
    make, shape = NETS[name]
    channels = analyse(make(), {"x": (2, *shape)})
    groups, _ = gated_groups(channels, (), (), inputs=False)
    groups = tuple(g for g in groups if why_not(g, channels.model) is not None)
    twin, taps = tapped(channels, [s for g in groups for s in g.sites])
    gates = Gates(groups, taps, site_key, seed=0, fixed={g.name for g in groups}).to(dtype)
    return channels, groups, TorchGraph(twin, dtype=dtype), gates


@pytest.mark.parametrize("name", NETS)
def test_groups_are_gated_though_no_weight_could_take_the_mean_in(name):
    channels, groups, _, _ = fixed_gates(name)
    assert {g.size for g in groups} == {"products": {6}, "tied": {6, 8}}[name]
    only_folded, refusals = gated_groups(channels, (), (), inputs=False, folded=True)
    assert not set(groups) & set(only_folded)
    assert {g.name for g in groups} <= {r.where for r in refusals}


@pytest.mark.parametrize("name", NETS)
def test_open_gates_change_nothing_and_closed_ones_silence(name):
    channels, groups, graph, gates = fixed_gates(name, torch.float64)
    x = np.random.default_rng(5).normal(size=(4, *NETS[name][1]))
    original = TorchGraph(channels.model, dtype=torch.float64).run({"x": x})["y"]
    masks = {g.name: np.arange(g.size) % 3 != 0 for g in groups}
    with gates.on(graph):
        np.testing.assert_array_equal(graph.run({"x": x})["y"], original)
        gates.keep(masks)
        closed = graph.run({"x": x})["y"]
    wanted = TorchGraph(silenced(channels, masks), dtype=torch.float64).run({"x": x})["y"]
    np.testing.assert_allclose(closed, wanted, rtol=1e-12, atol=1e-12)
    assert np.abs(wanted - original).max() > 1e-3


def test_of_two_factors_of_a_product_one_is_gated():
    """One is enough, and noise on both would be squared."""
    _, groups, _, gates = fixed_gates("products")
    assert [(s.node.name, s.slot) for s in groups[0].sites] == [("products", 0)]
    assert len(gates._places) == 1


def test_the_mean_stays_and_the_variance_grows_as_the_closed_form_says():
    """∂/∂ log σ² of log(1 + 1/σ²) is −1/(1 + σ²); μ gets no gradient, from the term or the loss."""
    _, groups, graph, gates = fixed_gates("tied", torch.float64)
    weights = {g.name: 0.5 + k for k, g in enumerate(groups)}
    pressure = Pressure(gates, weights, 0.7, lr=0.1)
    seen = {}
    step = pressure._optimizer.step

    def looked():
        seen.update({g.name: gates[g.name].log_variance.grad.clone() for g in groups})
        return step()

    pressure._optimizer.step = looked
    before = {g.name: gates[g.name].log_variance.detach().clone() for g in groups}
    pressure.add_gradient()
    for group in groups:
        variance = before[group.name].exp()
        torch.testing.assert_close(
            seen[group.name], -0.7 / len(groups) * weights[group.name] / (1 + variance), rtol=1e-10, atol=0
        )
        assert bool((gates[group.name].log_variance > before[group.name]).all())
        assert bool((gates[group.name].mean == 1).all())
    with gates.on(graph):
        x = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 5)))
        sum(v.square().sum() for v in graph({"x": x}).values()).backward()
    for group in groups:
        assert gates[group.name].mean.grad is None
        assert float(gates[group.name].log_variance.grad.abs().sum()) > 0


SECOND_LAYER = {
    "its weight": "v = DequantizeLinear(e, s, z) y = MatMul(b, v)",
    "what comes in": "q, t, o = DynamicQuantizeLinear(b) v = DequantizeLinear(q, t, o) y = MatMul(v, w)",
    "what goes out": "c = MatMul(b, w) q, t, o = DynamicQuantizeLinear(c) y = DequantizeLinear(q, t, o)",
    "both": "q, t, o = DynamicQuantizeLinear(b) m = MatMulInteger(q, e, o, z) y = Cast<to=1>(m)",
    "nothing": "y = MatMul(b, w)",
}
"""What is rounded to eight bits."""


def quantised_net(kind):
    """Two layers of 8 and 4 units."""
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 5] x) => (float[N, 4] y) '
        f"{{a = MatMul(x, u) b = Relu(a) {SECOND_LAYER[kind]}}}"
    )
    u, w = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 8), (8, 4)))
    eight = {"e": np.round(w * 30).astype(np.int8), "s": np.float32(1 / 30), "z": np.int8(0)}
    weights = {"u": u, **(eight if kind in ("its weight", "both") else {"w": w})}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items())
    return importer.load(proto)


@pytest.mark.parametrize("kind", SECOND_LAYER)
def test_where_no_gradient_comes_back_no_gate_is_set(kind):
    """Its noise would be chosen by chance, and so would the channels; what comes in may be rounded."""
    channels = analyse(quantised_net(kind), {"x": (2, 5)})
    groups, refusals = gated_groups(channels, (), (), inputs=False)
    learns = kind not in ("both", "what goes out")
    assert [g.size for g in groups] == ([8] if learns else [])
    assert any("no gradient comes back" in r.why for r in refusals) != learns
    assert bool(choice.only_cut(channels, (), ())) != learns


def test_gates_are_trained_alone_where_no_weight_can_be(monkeypatch):
    monkeypatch.setattr(choice, "trained_weights", lambda channels, model: ())
    resources = Resources(input_shapes={"x": (1, 5)})
    plan = Vib(target="macs=0.7", epochs=1.0, round_to=1).plan(tied_net(), task_for((5,), 5), resources)
    assert plan.keep
    assert not plan.values
    assert any("only gates were trained" in w for w in plan.warnings)
