"""Encoded weights in training: the graph makes them of their numbers, to the last bit, and gradients fit."""

import ml_dtypes
import numpy as np
import pytest
import torch
from onnx import helper
from pruning_models import mlp, model_of

from onnxcompress.encodings.additive import Sum
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.half import HalfPrecision
from onnxcompress.encodings.scaled import IntGrid, Ternary
from onnxcompress.encodings.sparse import Pruning
from onnxcompress.encodings.sparse_codebook import PruneCodebook
from onnxcompress.encodings.trellis import TrellisCodebook
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.numbers import TrainedNumbers

RNG = np.random.default_rng(0)
PROJECTIONS = {
    "codebook": AdaptiveCodebook(3),
    "pinned zero": AdaptiveCodebook(5, pin_zero=True),
    "channel": AdaptiveCodebook(4, granularity="channel", axis=1),
    "group": AdaptiveCodebook(2, granularity="group", axis=0, group_size=7),
    "scales": IntGrid(entries=16, granularity="channel", axis=0),
    "scales of groups": Ternary(granularity="group", axis=1, group_size=5),
    "sparse": Pruning(0.3),
    "sparse codebook": PruneCodebook(4, 0.4),
    "sum": Sum((AdaptiveCodebook(2), Pruning(0.1))),
    "half": HalfPrecision("bf16"),
}


def graph_of(weight, encoding, **more):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], "fc", transB=1)]
    model = model_of(nodes, {"w": weight}, (weight.shape[1],), weight.shape[0])
    graph = TorchGraph(model, **more)
    graph.set_arrays({"w": encoding.decode()})
    return graph, TrainedNumbers(graph, {"w": encoding})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_the_weight_is_what_the_encoding_decodes_to(name, dtype):
    weight = RNG.normal(size=(11, 23)).astype(dtype)
    encoding = PROJECTIONS[name].project([weight])[0]
    graph, numbers = graph_of(weight.astype(np.float32), encoding)
    assert np.array_equal(numbers.weight("w").detach().numpy(), encoding.decode().astype(np.float32))
    x = RNG.normal(size=(4, 23)).astype(np.float32)
    assert np.allclose(graph.run({"x": x})["y"], x @ encoding.decode().astype(np.float32).T, atol=1e-5)
    with torch.no_grad():
        for parameter in numbers.parameters():
            parameter.mul_(1.0 + 0.3 * torch.rand(parameter.shape))
    changed = numbers.encodings(numbers.arrays().keys())["w"]
    assert np.array_equal(numbers.weight("w").detach().numpy(), changed.decode().astype(np.float32))
    assert changed.dtype == encoding.dtype
    assert not np.array_equal(changed.decode(), encoding.decode())


@pytest.mark.parametrize("name", PROJECTIONS)
def test_gradients_are_those_of_the_numbers(name):
    """∂L/∂number = Σ factor · ∂L/∂w over the elements made of it; nothing reaches pinned zeros."""
    weight = RNG.normal(size=(9, 14)).astype(np.float32)
    encoding = PROJECTIONS[name].project([weight])[0]
    graph, numbers = graph_of(weight, encoding)
    x, goal = (torch.tensor(RNG.normal(size=s), dtype=torch.float32) for s in ((20, 14), (20, 9)))
    loss = (graph({"x": x})["y"] - goal).square().sum()
    loss.backward()
    dense = torch.tensor(encoding.decode(), requires_grad=True)
    (x @ dense.T - goal).square().sum().backward()
    for made, held in zip(encoding.numbers(), numbers.parameters(), strict=True):
        places = np.arange(weight.size).reshape(weight.shape) if made.places is None else made.places
        factors = np.ones(weight.shape) if made.factors is None else made.factors.astype(np.float64)
        used = places >= 0
        wanted = np.bincount(places[used], (dense.grad.numpy() * factors)[used], len(made.values))
        values = made.values.astype(np.float64)
        unit = np.where(values == 0, 1, held.detach().numpy() / np.where(values == 0, 1, values))
        assert np.allclose(held.grad.numpy() * unit, wanted, rtol=1e-4, atol=1e-3)


def test_numbers_are_as_large_as_weights():
    """Scales are small where levels are large; a step of the optimiser is to move weights, not scales."""
    weight = RNG.normal(size=(8, 64)).astype(np.float32)
    encoding = IntGrid(entries=256, granularity="channel", axis=0).project([weight])[0]
    _, numbers = graph_of(weight, encoding)
    (held,) = numbers.parameters()
    assert encoding.scales.max() < 0.1
    assert 0.4 < held.detach().min() < held.detach().max() < 2.5


def test_weights_with_one_codebook_go_on_sharing_it():
    model = mlp(RNG.normal(size=(12, 6)), RNG.normal(size=(3, 12)))
    arrays = [model.array(n) for n in ("w1", "w2")]
    joint = dict(zip(("w1", "w2"), AdaptiveCodebook(4).project(arrays), strict=True))
    numbers = TrainedNumbers(TorchGraph(model), joint)
    (held,) = numbers.parameters()
    with torch.no_grad():
        held.add_(torch.rand(4))
    found = numbers.encodings(["0"])
    assert np.array_equal(found["w1"].entries, found["w2"].entries)
    assert not np.array_equal(found["w1"].entries, joint["w1"].entries)
    alone = {n: AdaptiveCodebook(4).project([model.array(n)])[0] for n in ("w1", "w2")}
    assert len(TrainedNumbers(TorchGraph(model), alone).parameters()) == 2


def test_weights_with_one_trellis_go_on_sharing_it_each_at_its_own_scale():
    model = mlp(RNG.normal(size=(40, 64)), 0.1 * RNG.normal(size=(48, 40)))
    arrays = [model.array(n) for n in ("w1", "w2")]
    joint = dict(zip(("w1", "w2"), TrellisCodebook(2).project(arrays), strict=True))
    assert joint["w1"].scale != joint["w2"].scale
    for names in (("w1", "w2"), ("w2", "w1")):
        numbers = TrainedNumbers(TorchGraph(model), {n: joint[n] for n in names})
        (held,) = numbers.parameters()
        for name in names:
            assert np.array_equal(numbers.weight(name).detach().numpy(), joint[name].decode())
        with torch.no_grad():
            held.mul_(1 + 0.1 * torch.rand(len(held)))
        found = numbers.encodings(["0"])
        assert np.array_equal(found["w1"].entries, found["w2"].entries)
        for name in names:
            assert np.array_equal(numbers.weight(name).detach().numpy(), found[name].decode())
            assert found[name].scale == joint[name].scale
            assert not np.array_equal(found[name].decode(), joint[name].decode())


def test_only_what_changed_is_encoded_anew():
    model = mlp(RNG.normal(size=(12, 6)), RNG.normal(size=(3, 12)))
    alone = {n: AdaptiveCodebook(4).project([model.array(n)])[0] for n in ("w1", "w2")}
    numbers = TrainedNumbers(TorchGraph(model), alone)
    before = numbers.arrays()
    numbers.set_arrays({"1": before["1"] + 1})
    assert numbers.encodings({"1"}).keys() == {"w2"}
    numbers.set_arrays(before)
    assert np.array_equal(numbers.weight("w2").detach().numpy(), alone["w2"].decode())


def test_entries_that_overtake_each_other_are_sorted_with_their_codes():
    weight = RNG.normal(size=(6, 10)).astype(np.float32)
    for projection in (PROJECTIONS["codebook"], PROJECTIONS["channel"], PROJECTIONS["group"]):
        encoding = projection.project([weight])[0]
        (numbers,) = encoding.numbers()
        values = numbers.values[::-1].copy()
        found = encoding.with_numbers([values])
        assert np.array_equal(found.decode(), values[numbers.places])
        assert np.all(np.diff(found.entries, axis=-1) >= 0)
        assert found.stored_bits() == encoding.stored_bits()
