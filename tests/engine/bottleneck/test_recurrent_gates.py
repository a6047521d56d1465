"""Gates on recurrent networks: the gated graph, the folded one, and the cut one in onnxruntime agree."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from gated_nets import gated, set_means

import onnxcompress
from onnxcompress import exporter, importer
from onnxcompress.encodings.dense import Dense
from onnxcompress.engine import runtime
from onnxcompress.engine.bottleneck.folding import folded, why_not
from onnxcompress.engine.bottleneck.recurrence import Recurrence
from onnxcompress.engine.channels import analyse, silenced
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.surgery import cut

RNG = np.random.default_rng(0)
FIXTURES = Path(__file__).parents[3] / "fixtures"


def recurrent(kind, width, inputs, directions):
    """Return the weights W, R, B of a recurrent node."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * width
    return {
        "W": RNG.normal(size=(directions, gates, inputs)) * 0.4,
        "R": RNG.normal(size=(directions, gates, width)) * 0.4,
        "B": RNG.normal(size=(directions, 2 * gates)) * 0.4,
    }


def tagger(kind, width=8, words=20, deep=10, directions=1, *, turned=False):
    """Embedding, recurrent layer, a hidden layer, and a label for every step; batch first outside.

    ``turned``: the weight of the recurrence is stored with its axes in another order.
    """
    tensors = {
        "table": RNG.normal(size=(words, deep)), **recurrent(kind, width, deep, directions),
        "w1": RNG.normal(size=(directions * width, 6)), "b1": RNG.normal(size=6),
        "w2": RNG.normal(size=(6, 4)),
    }  # fmt: skip
    way = {"direction": "bidirectional"} if directions == 2 else {}
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"], "embed"),
        helper.make_node("Transpose", ["e"], ["t"], "first", perm=[1, 0, 2]),
        helper.make_node(kind, ["t", "W", "R", "B"], ["h"], "recurrent", hidden_size=width, **way, **more),
        helper.make_node("Transpose", ["h"], ["u"], "back", perm=[2, 0, 1, 3]),
        helper.make_node("Reshape", ["u", "flat"], ["v"], "join"),
        helper.make_node("MatMul", ["v", "w1"], ["m"], "m1"),
        helper.make_node("Add", ["m", "b1"], ["a"], "a1"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], "m2"),
    ]
    if turned:
        tensors["stored"] = tensors.pop("R").transpose(2, 0, 1)
        nodes.insert(0, helper.make_node("Transpose", ["stored"], ["R"], "turn", perm=[1, 2, 0]))
    held = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in tensors.items()]
    held.append(numpy_helper.from_array(np.array([0, 0, directions * width], np.int64), "flat"))
    graph = helper.make_graph(
        nodes, "tagger",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7, 4])], held,
    )  # fmt: skip
    return importer.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_gated_folded_and_cut_agree(kind, directions, turned):
    model = tagger(kind, directions=directions, turned=turned)
    channels, groups, graph, gates = gated(model, {"x": (2, 7)}, dtype=torch.float64)
    made = {m.tensor for g in groups for m in g.members}
    assert {"table", "w1"} <= made
    if directions == 1:
        assert "W" in made
    means = set_means(gates)
    masks = {g.name: np.arange(g.size) % 3 != 0 for g in groups}
    gates.keep(masks)
    x = RNG.integers(0, 20, (4, 7))
    recurrence = Recurrence(channels, groups, gates)
    with gates.on(graph), recurrence.on(graph.hooks):
        wanted = graph.run({"x": x})["y"]
    with gates.on(graph):
        without = graph.run({"x": x})["y"]
    if any(m.tensor in ("R", "stored") for g in groups for m in g.members):
        # A closed channel still reaches the others through the state, unless it is left out there as well.
        assert np.abs(without - wanted).max() > 1e-4
    arrays = folded(groups, means, {n: model.array(n).astype(np.float64) for n in model.weights})
    plain = TorchGraph(silenced(channels, masks), dtype=torch.float64)
    plain.set_arrays(arrays)
    np.testing.assert_allclose(plain.run({"x": x})["y"], wanted, rtol=1e-9, atol=1e-10)
    changed = model.with_encodings({n: Dense(a.astype(np.float32)) for n, a in arrays.items()}, "vib")
    small = cut(analyse(changed, {"x": (2, 7)}), masks)
    (found,) = runtime.open_session(exporter.dense_bytes(small.model)).run({"x": x}).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    assert any(small.shapes)


def test_a_weight_that_meets_the_state_as_well_takes_no_gate_in():
    """One tensor is W and R: the gates in front of the layer are not those of its state."""
    proto = onnx.load_from_string(exporter.dense_bytes(tagger("GRU", width=8, deep=8)))
    (node,) = (n for n in proto.graph.node if n.op_type == "GRU")
    node.input[2] = "W"
    del proto.graph.initializer[[t.name for t in proto.graph.initializer].index("R")]
    model = importer.load(proto)
    channels = analyse(model, {"x": (2, 7)})
    met = [g for g in channels.groups if any(s.weight == "W" for s in g.sites)]
    assert met
    assert all("used elsewhere" in str(why_not(g, channels.model)) for g in met)


def test_a_tagger_is_cut_and_taught_without_labels(tmp_path):
    source, data = tmp_path / "tagger.onnx", tmp_path / "words.npz"
    source.write_bytes(exporter.dense_bytes(tagger("LSTM", width=16)))
    np.savez(data, x=RNG.integers(0, 20, (300, 7)))
    result = onnxcompress.compress(
        source, method="vib", output=tmp_path / "cut.onnx", data=data, target="macs=0.6", round_to=4,
        epochs=12.0, after=6.0, batch_size=32,
    )  # fmt: skip
    run = result.run
    assert run.models[1].macs <= 0.6 * run.models[0].macs
    points = run.methods[0].training.points
    decided = max(p.compressed_loss for p in points)
    assert points[-1].compressed_loss < 0.7 * decided


def test_the_lstm_of_the_fixtures(tmp_path):
    result = onnxcompress.compress(
        FIXTURES / "digits_lstm.onnx", method="vib", output=tmp_path / "cut.onnx",
        data=FIXTURES / "digits.npz", target="macs=0.5", round_to=4, epochs=6.0, after=4.0, batch_size=64,
    )  # fmt: skip
    run = result.run
    assert run.models[1].macs <= 0.5 * run.models[0].macs
    assert run.accuracy.after > run.accuracy.before - 0.05
