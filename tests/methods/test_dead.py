"""Dead channels: cut without loss where the weights prove it, or the data shows it, and nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from pruning_models import conv_net, mlp, model_of, task_for

import onnxcompress
from onnxcompress import importer
from onnxcompress.core.errors import NothingChangedError, UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.constancy import constants
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.proto import to_proto
from onnxcompress.engine.runtime import open_session
from onnxcompress.methods.dead import DeadChannels
from onnxcompress.surgery import cut

RNG = np.random.default_rng(0)
SHAPES = {"x": (1, 3, 8, 8)}


def plan(model, task=None, shapes=SHAPES, **options):
    return DeadChannels(**options).plan(model, task, Resources(input_shapes=shapes))


def check_lossless(model, found, shape, shapes):
    """The cut model computes what the original does, in onnxruntime, on inputs far from those of training."""
    after = cut(analyse(model, shapes), found.keep, found.constants).model
    x = (RNG.normal(size=(3, *shape)) * 5).astype(np.float32)
    expected = TorchGraph(model).run({"x": x})["y"]
    assert np.allclose(
        open_session(to_proto(after.ir).SerializeToString()).run({"x": x})["y"],
        expected,
        rtol=1e-4,
        atol=1e-4,
    )


def cut_of(found, name):
    return np.flatnonzero(~found.keep[name]).tolist() if name in found.keep else []


def test_filters_of_zeros_without_bias():
    first = RNG.normal(size=(12, 6))
    first[[1, 4, 5, 7]] = 0
    model = mlp(first, RNG.normal(size=(3, 12)))
    found = plan(model, shapes={"x": (1, 6)})
    assert cut_of(found, "w1") == [1, 4, 5, 7]
    assert not found.constants
    check_lossless(model, found, (6,), {"x": (1, 6)})


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Tanh", "Softplus", None])
def test_constants_go_into_the_bias_of_the_consumer(activation):
    first, bias = RNG.normal(size=(12, 6)), RNG.normal(size=12)
    first[[1, 4, 5, 7]] = 0
    model = mlp(first, RNG.normal(size=(3, 12)), activation, bias)
    found = plan(model, shapes={"x": (1, 6)})
    assert cut_of(found, "w1") == [1, 4, 5, 7]
    check_lossless(model, found, (6,), {"x": (1, 6)})
    wrong = dict.fromkeys(found.constants, np.zeros(12))
    with pytest.raises(AssertionError):  # the check notices a constant that is left out
        check_lossless(model, type(found)(keep=found.keep, constants=wrong), (6,), {"x": (1, 6)})


def test_channels_that_nothing_reads():
    second = RNG.normal(size=(3, 12))
    second[:, [0, 3, 9, 11]] = 0
    model = mlp(RNG.normal(size=(12, 6)), second, bias=RNG.normal(size=12))
    found = plan(model, shapes={"x": (1, 6)})
    assert cut_of(found, "w1") == [0, 3, 9, 11]
    check_lossless(model, found, (6,), {"x": (1, 6)})


def test_scales_of_zero_kill_a_channel_and_relu_its_constant():
    scale, shift = RNG.uniform(0.5, 1, 16), -RNG.uniform(0.1, 1, 16)
    scale[[2, 3, 8, 15]] = 0
    model = conv_net(**{"bn.g": scale, "bn.b": shift})
    found = plan(model)
    assert cut_of(found, "c1.w") == [2, 3, 8, 15]
    assert not found.constants, "a negative constant does not pass the ReLU"
    check_lossless(model, found, (3, 8, 8), SHAPES)


def test_a_constant_in_front_of_a_padding_convolution_stays():
    tensors = {
        "c1.w": RNG.normal(size=(8, 3, 3, 3)),
        "c1.b": RNG.normal(size=8) + 3,
        "c2.w": RNG.normal(size=(8, 8, 3, 3)),
        "fc.w": RNG.normal(size=(5, 8)),
    }
    tensors["c1.w"][[0, 1, 2, 3]] = 0
    tensors["c1.b"][0] = -1

    def net(pads):
        nodes = [
            helper.make_node("Conv", ["x", "c1.w", "c1.b"], ["a"], "conv1"),
            helper.make_node("Relu", ["a"], ["b"], "relu"),
            helper.make_node("Conv", ["b", "c2.w"], ["c"], "conv2", pads=[pads] * 4),
            helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
            helper.make_node("Flatten", ["d"], ["e"], "flatten"),
            helper.make_node("Gemm", ["e", "fc.w"], ["y"], "fc", transB=1),
        ]
        return model_of(nodes, tensors, (3, 8, 8), 5)

    valid, same = plan(net(0), round_to=1), plan(net(1), round_to=1)
    assert cut_of(valid, "c1.w") == [0, 1, 2, 3]
    check_lossless(net(0), valid, (3, 8, 8), SHAPES)
    assert cut_of(same, "c1.w") == [0]
    check_lossless(net(1), same, (3, 8, 8), SHAPES)
    reasons = [r.why for r in same.refusals if r.where == "c1.w"]
    assert any("3 channels that are constant" in why and "border" in why for why in reasons)


def test_residual_channels_die_only_where_every_branch_is_dead():
    tensors = {n: RNG.normal(size=(16, k)) for n, k in (("a.w", 6), ("b.w", 6))} | {
        "o.w": RNG.normal(size=(3, 16))
    }
    tensors["a.w"][[0, 1, 2, 3, 4]] = 0
    tensors["b.w"][[0, 1, 2, 3, 9]] = 0
    nodes = [
        helper.make_node("Gemm", ["x", "a.w"], ["a"], "ga", transB=1),
        helper.make_node("Gemm", ["x", "b.w"], ["b"], "gb", transB=1),
        helper.make_node("Add", ["a", "b"], ["s"], "add"),
        helper.make_node("Gemm", ["s", "o.w"], ["y"], "go", transB=1),
    ]
    model = model_of(nodes, tensors, (6,), 3)
    found = plan(model, shapes={"x": (1, 6)})
    assert cut_of(found, "a.w") == [0, 1, 2, 3]
    check_lossless(model, found, (6,), {"x": (1, 6)})


def test_widths_stay_fast_and_no_layer_is_emptied():
    first = RNG.normal(size=(12, 6))
    first[[1, 4, 5]] = 0
    model = mlp(first, RNG.normal(size=(3, 12)))
    found = plan(model, shapes={"x": (1, 6)})
    assert not found.keep
    assert "3 dead channels" in {r.where: r.why for r in found.refusals}["w1"]
    assert cut_of(plan(model, shapes={"x": (1, 6)}, round_to=1), "w1") == [1, 4, 5]
    every = mlp(np.zeros((12, 6)), RNG.normal(size=(3, 12)))
    assert plan(every, shapes={"x": (1, 6)}).keep["w1"].sum() == 4
    assert plan(every, shapes={"x": (1, 6)}, round_to=1).keep["w1"].sum() == 1


def test_a_living_model_has_no_dead_channel():
    assert not plan(conv_net()).keep
    with pytest.raises(NothingChangedError, match="no dead channel"):
        onnxcompress.compress(to_proto(conv_net().ir), method="dead", benchmark=False)


def test_units_that_are_dead_on_the_data_alone_are_told():
    bias = np.zeros(16)
    bias[[3, 6, 7, 12]] = -1000
    model, task = mlp(RNG.normal(size=(16, 6)), RNG.normal(size=(3, 16)), bias=bias), task_for((6,), 3)
    assert not plan(model, shapes={"x": (1, 6)}).keep, "the weights do not prove it"
    found = plan(model, task, shapes={"x": (1, 6)})
    assert cut_of(found, "w1") == [3, 6, 7, 12]
    assert "given data only (64 examples)" in found.warnings[0]
    assert not plan(model, task, shapes={"x": (1, 6)}, observe=False).keep


def test_one_example_that_wakes_a_unit_keeps_it():
    first, bias = RNG.normal(size=(8, 6)), np.zeros(8)
    task = task_for((6,), 3, count=200)
    x = task.samples.inputs(np.union1d(task.train, task.validation))["x"]
    bias[:4] = -(x @ first.T).max(axis=0)[:4] + 1e-3
    bias[4:] = -(x @ first.T).max(axis=0)[4:] - 1e-3
    found = plan(mlp(first, RNG.normal(size=(3, 8)), bias=bias), task, shapes={"x": (1, 6)})
    assert cut_of(found, "w1") == [4, 5, 6, 7]


def test_the_whole_run(tmp_path):
    first, bias = RNG.normal(size=(32, 6)), RNG.normal(size=32)
    first[:16] = 0
    result = onnxcompress.compress(
        to_proto(mlp(first, RNG.normal(size=(3, 32)), bias=bias).ir),
        method="dead",
        benchmark=False,
        output=tmp_path / "o.onnx",
    )
    worst = max(o.relative_l2 for c in result.run.comparisons for o in c.outputs)
    assert worst < 1e-6
    assert result.run.models[1].parameters < 0.6 * result.run.models[0].parameters


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_what_is_called_constant_is_constant(seed, data):
    """Random chains of operators over random zeros: against the values of the running network."""
    model, shape = random_net(np.random.default_rng(seed), data)
    channels = analyse(model, {"x": (1, *shape)})
    states = constants(channels)
    graph = TorchGraph(channels.model)
    seen: dict[str, list[np.ndarray]] = {}
    for value in states:
        graph.hooks[value.name] = lambda t, name=value.name: (
            seen.setdefault(name, []).append(t.double().numpy()) or t
        )
    for scale in (1e-3, 1, 30):
        graph.run({"x": (np.random.default_rng(seed).normal(size=(2, *shape)) * scale).astype(np.float32)})
    for value, state in states.items():
        for axis, held in state.items():
            for array in seen.get(value.name, []):
                rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
                expected = held.values[held.known][:, None]
                assert np.allclose(rows[held.known], expected, rtol=1e-4, atol=1e-5), value.name


def random_net(rng, data):
    channels, tensors, nodes, last = 3, {}, [], "x"

    def weight(name, *shape):
        array = rng.normal(size=shape)
        array[rng.random(shape[0]) < 0.5] = 0
        tensors[name] = array
        return name

    for current in range(data.draw(st.integers(2, 5))):
        out, kind = (
            f"v{current}",
            data.draw(st.sampled_from(["conv", "bn", "act", "pool", "pad", "add", "mul", "cat"])),
        )
        if kind == "conv":
            wide = int(rng.integers(2, 7))
            tensors[f"b{current}"] = rng.normal(size=wide) * (rng.random(wide) < 0.5)
            pads = [int(rng.integers(0, 2))] * 4
            nodes.append(
                helper.make_node(
                    "Conv",
                    [last, weight(f"w{current}", wide, channels, 3, 3), f"b{current}"],
                    [out],
                    pads=pads,
                )
            )
            channels = wide
        elif kind == "bn":
            names = [weight(f"g{current}", channels), f"s{current}", f"m{current}", f"r{current}"]
            for name in names[1:]:
                tensors[name] = rng.uniform(0.1, 1, channels)
            nodes.append(helper.make_node("BatchNormalization", [last, *names], [out]))
        elif kind == "act":
            op = data.draw(st.sampled_from(["Relu", "Sigmoid", "HardSwish", "LeakyRelu", "Tanh", "Softplus"]))
            nodes.append(helper.make_node(op, [last], [out]))
        elif kind == "pool":
            op = data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
            more = {"count_include_pad": int(rng.integers(0, 2))} if op == "AveragePool" else {}
            nodes.append(helper.make_node(op, [last], [out], kernel_shape=[3, 3], pads=[1, 1, 1, 1], **more))
        elif kind == "pad":
            nodes.append(helper.make_node("Identity", [last], [out]))
        elif kind in ("add", "mul"):
            tensors[f"c{current}"] = rng.normal(size=(channels, 1, 1)) * (rng.random((channels, 1, 1)) < 0.5)
            nodes.append(helper.make_node(kind.title(), [last, f"c{current}"], [out]))
        else:
            nodes.append(helper.make_node("Concat", [last, last], [out], axis=1))
            channels *= 2
        last = out
    tensors["o.w"] = rng.normal(size=(4, channels))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "o.w"], ["y"], transB=1),
    ]
    for index, node in enumerate(nodes):
        node.name = f"n{index}"
    return model_of(nodes, tensors, (3, 14, 14), 4), (3, 14, 14)


def test_options_out_of_range():
    with pytest.raises(UsageError):
        DeadChannels(round_to=3)


@pytest.mark.parametrize(
    ("opset", "norm", "shape", "dead"),
    [
        (9, "n = BatchNormalization(h, s, t, m, q)", (6,), [1, 4]),
        (9, "n, a, c, d, e = BatchNormalization(h, s, t, m, q)", (6,), []),  # by its own input
        (7, "n = BatchNormalization<spatial=0>(h, s, t, m, q)", (6, 4, 4), []),  # numbers for every place
        (15, "n, a, c = BatchNormalization<training_mode=1>(h, s, t, m, q)", (6,), []),
    ],
)
def test_constants_go_through_the_batch_normalisation_that_keeps_them(opset, norm, shape, dead):
    proto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[2,3,4,4] x) => (float[2,5,4,4] y) '
        f"{{h = Conv(x, w, b) {norm} y = Conv(n, u)}}"
    )
    arrays = {k: RNG.uniform(0.5, 1.5, shape) for k in "stmq"} | {"b": RNG.normal(size=6)}
    arrays |= {"w": RNG.normal(size=(6, 3, 1, 1)), "u": RNG.normal(size=(5, 6, 1, 1))}
    arrays["w"][[1, 4]] = 0
    proto.graph.initializer.extend(
        numpy_helper.from_array(a.astype(np.float32), k) for k, a in arrays.items()
    )
    model, shapes = importer.load(proto), {"x": (2, 3, 4, 4)}
    found = plan(model, shapes=shapes)
    assert cut_of(found, "w") == dead
    if dead:
        after = cut(analyse(model, shapes), found.keep, found.constants).model
        x = RNG.normal(size=shapes["x"]).astype(np.float32)
        outputs = [
            open_session(to_proto(m.ir).SerializeToString()).run({"x": x})["y"] for m in (model, after)
        ]
        np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
