"""Time by operator: places align between a model and what became of it, and nothing is counted twice."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from small_models import model_of
from test_quantizer import conv_net

import onnxcompress
from onnxcompress.engine import runtime
from onnxcompress.engine.dense_proto import serialised
from onnxcompress.engine.measures.operator_times import operator_times

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def feed(*shape):
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


@pytest.fixture(scope="module")
def pair():
    before = FIXTURES / "digits_cnn.onnx"
    after = onnxcompress.compress(before, method="int8", way="static", random_data=True).model
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    return operator_times({"a": before, "b": after.SerializeToString()}, {"image": x}, budget_s=0.3)


def test_the_same_layer_is_one_place_in_both_models(pair):
    places = {p.place: p for p in pair.places}
    for node, operators in {"conv1": ("Conv", "QLinearConv"), "conv2": ("Conv", "QLinearConv")}.items():
        assert places[node].operators == operators
    for node in ("fc1", "fc2"):
        first, second = places[node].operators
        assert first in ("Gemm", "FusedGemm")
        assert second == "QGemm"
    only_after = [p for p in pair.places if p.operators[0] is None]
    assert {p.operators[1] for p in only_after} >= {"QuantizeLinear", "DequantizeLinear"}
    assert all(p.times_us[0] is None for p in only_after)


def test_times_add_up(pair):
    assert pair.models == ("a", "b")
    assert pair.runs >= 5
    for index in range(2):
        assert sum(p.times_us[index] or 0 for p in pair.places) == pytest.approx(pair.totals_us[index])
    slowest = [max(t for t in p.times_us if t is not None) for p in pair.places]
    assert slowest == sorted(slowest, reverse=True)


def test_a_normalisation_that_was_merged_is_told_under_its_convolution():
    model = serialised(conv_net())
    found = operator_times({"a": model}, feed(1, 3, 8, 8), budget_s=0.2)
    places = {p.place: p.operators[0] for p in found.places}
    assert places["first"] == "Conv"
    assert places["second"] == "Conv"
    assert "FusedGemm" in places.values() or places["dense"] == "Gemm"
    assert not any("BatchNormalization" in name for name in places)


def test_nodes_without_names_align_by_what_they_make():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Sigmoid", ["h"], ["y"])]
    model = model_of(nodes, {"x": [2, 3]}, {"y": [2, 4]}, {"w": np.ones((3, 4), np.float32)})
    found = operator_times({"a": serialised(model), "b": serialised(model)}, feed(2, 3), budget_s=0.1)
    assert {p.place for p in found.places} == {"MatMul(h)", "Sigmoid(y)"}
    assert all(None not in p.times_us for p in found.places)


def test_more_work_takes_more_time():
    rng = np.random.default_rng(0)
    sizes = {"small": 32, "large": 1024}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["s"], "small"),
        helper.make_node("MatMul", ["x", "b"], ["l"], "large"),
    ]
    arrays = {
        n: rng.standard_normal((512, size)).astype(np.float32)
        for n, size in zip("ab", sizes.values(), strict=True)
    }
    model = model_of(nodes, {"x": [64, 512]}, {"s": [64, 32], "l": [64, 1024]}, arrays)
    found = operator_times({"a": serialised(model)}, feed(64, 512), budget_s=0.3)
    times = {p.place: p.times_us[0] for p in found.places}
    assert times["large"] > 4 * times["small"]


def test_control_flow_is_not_counted_twice():
    path = FIXTURES / "if.onnx"
    session = runtime.open_session(path)
    feeds = {}
    for info in session.inputs:
        shape = [d if isinstance(d, int) else 2 for d in info.shape]
        feeds[info.name] = np.ones(shape, info.numpy)
    found = operator_times({"a": path}, feeds, budget_s=0.1)
    assert not any("If" in (p.operators[0] or "") for p in found.places)
