"""VIB as a method: what it finds, what it returns, and options that contradict each other."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from onnx import helper
from onnx.reference import ReferenceEvaluator
from pruning_models import conv_net, mlp, model_of, task_for

sys.path.insert(0, str(Path(__file__).parents[1]))
from text_graphs import model_of as written

import onnxcompress
from onnxcompress.core.errors import NothingChangedError, UnsupportedError, UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.engine.channels import analyse, silenced
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.losses import CLASSES_LOSS
from onnxcompress.methods.magnitude import Magnitude
from onnxcompress.methods.vib import Vib

FIXTURES = Path(__file__).parents[2] / "fixtures"


def plan(model, task, shapes, **options):
    return Vib(**{"round_to": 1, "batch_size": 64, **options}).plan(
        model, task, Resources(input_shapes=shapes)
    )


def teacher_with_idle_channels():
    """16 hidden units of which 12 say nothing that matters, and 10 inputs of which 6 do."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(16, 10)), rng.normal(size=(4, 16))
    first[:, 4:] *= 1e-3
    second[:, 4:] *= 1e-3
    return mlp(first, second)


def test_idle_channels_go_and_those_that_matter_stay():
    task = task_for((10,), 4, count=2000)
    found = plan(
        teacher_with_idle_channels(), task, {"x": (1, 10)},
        gate_inputs=True, epochs=30.0, after=0.0, gamma=0.01, augment=False,
    )  # fmt: skip
    hidden = found.keep["w1"]
    assert hidden[:4].all()
    assert hidden.sum() <= 6
    pixels = next(mask for name, mask in found.keep.items() if name != "w1")
    assert pixels[:4].all()
    assert pixels.sum() <= 6


@pytest.mark.parametrize(("hidden", "sliced"), [(16, True), (3, False)])
def test_inputs_are_chosen_only_where_that_saves_bytes(hidden, sliced):
    """6 of 10 inputs say nothing: choosing the others takes some 120 bytes, and saves 24 a hidden unit."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(hidden, 10)), rng.normal(size=(4, hidden))
    first[:, 4:] *= 1e-3
    task = task_for((10,), 4, count=1000)
    found = plan(
        mlp(first, second), task, {"x": (1, 10)},
        gate_inputs=True, epochs=30.0, after=0.0, gamma=0.01, augment=False,
    )  # fmt: skip
    weight = found.values["w1"].decode()
    assert any(len(mask) == 10 for mask in found.keep.values()) == sliced
    assert [bool((column == 0).all()) for column in weight.T[4:]] == [not sliced] * 6
    assert not (weight[:, :4] == 0).any()
    assert any("costs more than it saves" in refusal.why for refusal in found.refusals) != sliced


def test_the_plan_is_what_was_trained():
    """Silenced by the masks, with the plan's values, the network is as good as the last point says."""
    task = replace(task_for((3, 8, 8), 5, count=300), loss_named=True)  # that is, l2
    model = conv_net()
    found = plan(model, task, {"x": (1, 3, 8, 8)}, epochs=12.0, after=4.0, target="macs=0.5")
    channels = analyse(model, {"x": (1, 3, 8, 8)})
    assert channels.macs(found.keep) <= 0.5 * channels.macs({})
    values = {name: e.decode() for name, e in found.values.items()}
    assert set(values) <= set(model.weights)
    graph = TorchGraph(silenced(channels, found.keep))
    graph.set_arrays(values)
    x = task.samples.inputs(task.validation)["x"]
    ours, original = graph.run({"x": x})["y"], TorchGraph(model).run({"x": x})["y"]
    loss = np.square(ours - original).mean()
    last = found.training.points[-1].compressed_loss
    reference = TorchGraph(model).run({"x": task.samples.inputs(np.arange(300))["x"]})["y"].var()
    assert found.training.loss == "l2"
    assert loss / reference == pytest.approx(last, rel=0.05)
    assert found.training.bottleneck.reached <= 0.5
    assert len(found.training.bottleneck.path) > 10


def test_labels_and_normalisation():
    task = task_for((6,), 3, labelled=True, count=900, label=lambda x: int(np.argmax(x[:3])))
    rng = np.random.default_rng(1)
    model = mlp(rng.normal(size=(24, 6)), rng.normal(size=(3, 24)))
    found = plan(
        model, task, {"x": (1, 6)}, epochs=20.0, after=10.0, normalise=True, target="params=0.4", teacher=0.0,
        lr=0.01,
    )  # fmt: skip
    whole = sum(model.array(name).size for name in model.weights)
    of_a_unit, of_none = 6 + 1 + 3, 3  # its row, its bias, its column; the biases of the outputs
    assert found.keep["w1"].sum() == (0.4 * whole - of_none) // of_a_unit
    assert found.training.bottleneck.reached == (of_none + of_a_unit * found.keep["w1"].sum()) / whole
    points = found.training.points
    assert points[0].compressed_metric < 0.6
    assert points[-1].compressed_metric > 0.9
    assert {"w1", "b1", "w2"} <= set(found.values)


def deep_network(seed):
    """12 layers of 12 units, of which 9 and 3 in turn matter: layers are to keep different shares."""
    rng, tensors, nodes, read, value, live = np.random.default_rng(seed), {}, [], 6, "x", 6
    for k in range(12):
        matter = 3 if k % 2 else 9
        tensors[f"w{k}"] = rng.normal(size=(12, read)) * 1e-2
        tensors[f"w{k}"][:matter, :live] = rng.normal(size=(matter, live)) * np.sqrt(2 / live)
        nodes.append(helper.make_node("Gemm", [value, f"w{k}"], [f"h{k}"], transB=1))
        nodes.append(helper.make_node("Relu", [f"h{k}"], [f"r{k}"]))
        value, live, read = f"r{k}", matter, 12
    tensors["w"] = rng.normal(size=(4, 12))
    nodes.append(helper.make_node("Gemm", [value, "w"], ["y"], transB=1))
    return model_of(nodes, tensors, (6,), 4)


def test_in_few_steps_the_gates_of_a_deep_network_are_not_hurried():
    """Of 135 steps: large ones close the gates of all layers alike, before the loss has told them apart."""
    losses = {None: 0.0, 0.3: 0.0}
    for seed in range(3):
        model, task = deep_network(seed), task_for((6,), 4, count=2400)
        for rate in losses:
            found = plan(
                model, task, {"x": (1, 6)}, batch_size=16,
                target="params=0.45", epochs=1.0, after=0.0, gate_lr=rate, augment=False,
            )  # fmt: skip
            losses[rate] += found.training.points[-1].compressed_loss
    assert losses[None] < 0.5 * losses[0.3]


def test_file_and_command(tmp_path):
    out = tmp_path / "small.onnx"
    result = onnxcompress.compress(
        FIXTURES / "digits_cnn.onnx",
        method="vib",
        output=out,
        data=FIXTURES / "digits.npz",
        round_to=4,
        target="params=0.4",
        epochs=24,
        after=10,
        batch_size=64,
    )
    onnx.checker.check_model(onnx.load(out))
    assert out.stat().st_size < 0.5 * (FIXTURES / "digits_cnn.onnx").stat().st_size
    assert result.run.accuracy.after > 0.9
    assert all(h.kept % 4 == 0 for h in result.run.methods[0].training.bottleneck.histograms)
    again = type(result.run).from_json(result.run.to_json())
    assert again.methods[0].training.bottleneck == result.run.methods[0].training.bottleneck


def test_in_a_chain_it_is_not_silent_where_no_channel_can_be_gated(tmp_path):
    """Weights of 16 bits take no gate in: a target is an error then, else there is a warning."""
    out, data = tmp_path / "out.onnx", FIXTURES / "digits.npz"
    for method in ("vib", "lc-channels"):
        with pytest.raises(
            UnsupportedError, match=r"target macs=0.5 cannot be reached: no channel can be cut: "
        ):
            onnxcompress.compress(
                FIXTURES / "digits_mlp.onnx",
                method=["half", method],
                data=data,
                output=out,
                target="macs=0.5",
            )
        assert not out.exists()
    result = onnxcompress.compress(
        FIXTURES / "digits_mlp.onnx", method=["half", "vib"], data=data, output=out, benchmark=False
    )
    assert "vib changed nothing: no channel can be gated" in result.run.warnings


@pytest.mark.parametrize("biased", [True, False])
def test_codes_of_an_autoencoder_with_tied_weights_go(biased):
    """W makes the codes and reads them along one axis, so that no weight could take the gates' means in."""
    weight = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32) / 3
    weight[:, 6:] *= 1e-3
    body = "h = MatMul (x, W)\nr = Tanh (h)\nt = Transpose <perm = [1, 0]> (W)\ny = MatMul (r, t)"
    weights = {"W": weight}
    if biased:
        body, weights["c"] = (
            body.replace("Tanh (h)", "Tanh (b)").replace("\nr", "\nb = Add (h, c)\nr"),
            weight[0],
        )
    proto = written(body, "float[N, 8] x", "float[N, 8] y", weights).ir
    x = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)
    options = {"target": "macs=0.5", "round_to": 1, "epochs": 2, "benchmark": False}
    cut = onnxcompress.compress(proto, method="vib", data={"x": x}, **options).model
    sizes = [list(t.dims) for t in cut.graph.initializer if len(t.dims) == 2]
    assert sizes == [[8, 6]]
    before, after = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (onnx_ir.to_proto(proto), cut))
    assert np.square(before - after).mean() < 0.02 * before.var()


@pytest.mark.parametrize("normalised", [True, False])
def test_where_channels_can_be_cut_but_not_gated_it_says_by_what(normalised):
    """Behind a normalisation over channels zero is not zero; magnitude cuts them nevertheless."""
    body = "h = MatMul (x, A)\nn = LayerNormalization (h, s)\nr = Relu (n)\ny = MatMul (r, B)"
    if not normalised:
        body = "y = MatMul (x, A)"
    weights = {"A": (6, 8), "s": np.ones(8, np.float32), "B": (8, 4)}
    model = written(body, "float[N, 6] x", f"float[N, {4 if normalised else 8}] y", weights)
    task, resources = task_for((6,), 4), Resources(input_shapes={"x": (1, 6)})
    with pytest.raises(UnsupportedError, match="no channel can be cut") as caught:
        Vib(target="macs=0.6", round_to=1).plan(model, task, resources)
    assert ("--method magnitude" in str(caught.value.fix)) == normalised
    found = Vib().plan(model, task, resources)
    assert any("--method magnitude" in warning for warning in found.warnings) == normalised
    # The oracle: what magnitude does of it.
    assert bool(Magnitude(keep=0.5, round_to=1).plan(model, None, resources).keep) == normalised


@pytest.mark.parametrize("normalised", [True, False])
def test_where_gates_alone_cannot_meet_a_target_it_says_what_cuts_more(normalised):
    body = (
        "h = MatMul (x, A)\nn = LayerNormalization (h, s)\nr = MatMul (n, B)\nt = Relu (r)\ny = MatMul (t, C)"
    )
    weights = {"A": (20, 20), "s": np.ones(20, np.float32), "B": (20, 20), "C": (20, 4)}
    if not normalised:
        body, weights = body.replace("n = LayerNormalization (h, s)", "n = Relu (h)"), {**weights}
        del weights["s"]
    model = written(body, "float[N, 20] x", "float[N, 4] y", weights)
    task, resources = task_for((20,), 4), Resources(input_shapes={"x": (1, 20)})
    with pytest.raises(UnsupportedError, match="let a larger share stay") as caught:
        Vib(target=f"macs={0.3 if normalised else 0.01}").plan(model, task, resources)
    assert ("--method magnitude" in str(caught.value.fix)) == normalised
    if normalised:  # The oracle: what magnitude does of it.
        assert len(Magnitude(target="macs=0.3").plan(model, None, resources).keep) == 2


def test_statistics_of_single_examples_are_not_taken():
    """BatchNormalization in training sees a batch; of one picture it would be another network."""
    model, task = conv_net(), task_for((3, 8, 8), 5, count=40)
    (node,) = (n for n in model.ir.graph if n.op_type == "BatchNormalization")
    stored = {value.name for value in node.inputs[3:]}
    for batch_size, moves in ((1, False), (8, True)):
        found = plan(
            model, task, {"x": (1, 3, 8, 8)}, epochs=1.0, after=1.0, target="macs=0.6", batch_size=batch_size
        )
        assert bool(stored & set(found.values)) == moves


def test_the_same_seed_gives_the_same_plan():
    task = task_for((3, 8, 8), 5, count=100)
    one, two = (
        plan(conv_net(), task, {"x": (1, 3, 8, 8)}, epochs=3.0, after=1.0, target="macs=0.6")
        for _ in range(2)
    )
    assert one.training.loss == CLASSES_LOSS  # five outputs, no labels
    assert one.keep.keys() == two.keep.keys()
    for name, encoding in one.values.items():
        np.testing.assert_array_equal(encoding.decode(), two.values[name].decode())


def test_nothing_to_cut_says_so():
    with pytest.raises(NothingChangedError, match="more --epochs, a larger --gamma or a --target"):
        onnxcompress.compress(
            FIXTURES / "digits_cnn.onnx", method="vib", data=FIXTURES / "digits.npz", gamma=1e-9, epochs=0.2,
            after=0,
        )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": -1.0}, {"threshold": 0.0}, {"epochs": 0.0}, {"after": -1.0}, {"warm_up": 2.0},
        {"round_to": 3}, {"target": "macs=1"}, {"scaling": "other"}, {"teacher": 1.5},
    ],
)  # fmt: skip
def test_options_out_of_range(options):
    with pytest.raises(UsageError):
        Vib(**options)


@pytest.mark.parametrize(("gamma", "told"), [(1e6, True), (0.01, False)])
def test_a_gamma_that_leaves_the_least_of_every_group_is_told(gamma, told):
    task = task_for((10,), 4, count=500)
    found = plan(
        teacher_with_idle_channels(), task, {"x": (1, 10)}, epochs=12.0, after=0.0, gamma=gamma, augment=False
    )
    assert any("fell to the least width" in warning for warning in found.warnings) == told
