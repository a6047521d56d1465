"""Constants that several nodes share: counted as the written file holds them, before and after any cut."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from pruning_models import model_of

from onnxcompress import exporter, surgery
from onnxcompress.core.resources import Resources
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.channels.carried import carried
from onnxcompress.methods.magnitude import Magnitude

SHAPES = {"x": (1, 3, 6, 6)}


def sharing_net(bias):
    """Four convolutions, three of them with one bias, and a vector that scales and shifts."""
    rng = np.random.default_rng(0)
    tensors = {"s": bias, "flat": np.linspace(1, 2, 8)}
    tensors |= {f"w{k}": rng.normal(size=(8, 3 if k == 0 else 8, 3, 3)) * 0.2 for k in range(4)}
    tensors |= {"fc": rng.normal(size=(5, 8))}
    nodes, last = [], "x"
    for k in range(4):
        biased = ["s"] if k < 3 else []
        nodes += [
            helper.make_node("Conv", [last, f"w{k}", *biased], [f"c{k}"], f"conv{k}", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{k}"], [f"r{k}"], f"relu{k}"),
        ]
        last = f"r{k}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Mul", ["f", "flat"], ["m"], "mul"),
        helper.make_node("Add", ["m", "flat"], ["a"], "add"),
        helper.make_node("Gemm", ["a", "fc"], ["y"], "fc", transB=1),
    ]
    return model_of(nodes, tensors, (3, 6, 6), 5)


def written(channels, keep) -> int:
    """Return the elements of all weights of the file after a cut."""
    cut = surgery.cut(channels, keep).model if keep else channels.model
    graph = onnx.load_from_string(exporter.dense_bytes(cut)).graph
    assert all(t.data_type == onnx.TensorProto.FLOAT for t in graph.initializer)
    held = [a.t.dims for n in graph.node if n.op_type == "Constant" for a in n.attribute]
    return sum(int(np.prod(dims)) for dims in (*(t.dims for t in graph.initializer), *held))


BIASES = {
    "zero": np.zeros(8), "all different": np.linspace(-1, 1, 8), "equal in parts": np.repeat([0.1, 0.5], 4),
}  # fmt: skip
ANALYSED = {name: analyse(sharing_net(bias), SHAPES) for name, bias in BIASES.items()}


@pytest.mark.parametrize("name", BIASES)
def test_the_uncut_model_has_as_many_as_its_file(name):
    model = sharing_net(BIASES[name])
    tensors = onnx.load_from_string(exporter.dense_bytes(model)).graph.initializer
    assert ANALYSED[name].parameters({}) == sum(int(np.prod(t.dims)) for t in tensors)


@pytest.mark.parametrize("name", BIASES)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.3, 0.6, 0.9]))
def test_after_a_cut_it_is_what_the_file_holds(name, seed, share):
    channels, rng = ANALYSED[name], np.random.default_rng(seed)
    keep = {g.name: rng.random(g.size) < share for g in channels.free}
    keep = {n: mask for n, mask in keep.items() if mask.any() and not mask.all()}
    if keep:
        assert channels.parameters(keep) == written(channels, keep)


@pytest.mark.parametrize("name", BIASES)
def test_what_hangs_on_a_group_is_what_goes_without_it(name):
    channels = ANALYSED[name]
    for group, found in carried(channels).items():
        gone = {group: np.zeros(channels.group(group).size, bool)}
        assert found.parameters == channels.parameters({}) - channels.parameters(gone)


def test_a_target_of_parameters_is_one_of_the_file():
    channels = ANALYSED["all different"]
    whole = channels.parameters({})
    plan = Magnitude(target="params=0.5", scope="joint", round_to=1).plan(
        sharing_net(BIASES["all different"]), None, Resources(input_shapes=SHAPES)
    )
    assert 0.4 * whole < written(channels, plan.keep) <= 0.5 * whole
