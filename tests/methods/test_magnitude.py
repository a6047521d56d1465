"""Magnitude pruning: the plan by hand, cut and run, and options that contradict each other."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from pruning_models import conv_net, mlp, task_for

import onnxcompress
from onnxcompress.core.errors import NothingChangedError, UnsupportedError, UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.engine.channels import analyse, silenced
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.importance._base import IMPORTANCES
from onnxcompress.engine.proto import to_proto
from onnxcompress.engine.runtime import open_session
from onnxcompress.methods import magnitude
from onnxcompress.methods.magnitude import Magnitude
from onnxcompress.surgery import cut

SHAPES = {"x": (1, 3, 8, 8)}
RNG = np.random.default_rng(0)


def plan(model, task=None, shapes=SHAPES, **options):
    return Magnitude(**options).plan(model, task, Resources(input_shapes=shapes))


def test_every_importance_can_be_asked_for():
    assert set(magnitude._IMPORTANCES) == set(IMPORTANCES)


def test_the_smallest_channels_go():
    first, second = RNG.normal(size=(32, 6)), RNG.normal(size=(3, 32))
    found = plan(mlp(first, second), shapes={"x": (1, 6)}, keep=0.5)
    size = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=0)
    assert found.keep.keys() == {"w1"}
    assert found.keep["w1"].sum() == 16
    assert size[found.keep["w1"]].min() >= size[~found.keep["w1"]].max()


@pytest.mark.parametrize("keep", [0.75, 0.5, 0.25])
def test_cut_is_what_silencing_is(keep):
    model = conv_net()
    found = plan(model, keep=keep)
    channels = analyse(model, SHAPES)
    x = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
    expected = TorchGraph(silenced(channels, found.keep)).run({"x": x})["y"]
    proto = to_proto(cut(channels, found.keep).model.ir)
    assert np.allclose(open_session(proto.SerializeToString()).run({"x": x})["y"], expected, atol=1e-5)
    assert not np.allclose(TorchGraph(model).run({"x": x})["y"], expected, atol=1e-2), "nothing was cut"


@pytest.mark.parametrize(("size", "kept"), [(16, 8), (24, 12), (40, 16), (58, 28), (72, 32), (104, 48)])
def test_half_is_rounded_down_to_a_width_that_is_fast(size, kept):
    """Multiples of 16, those of 4 below it and where the width was no such multiple: by hand."""
    first, second = RNG.normal(size=(size, 6)), RNG.normal(size=(3, size))
    mask = plan(mlp(first, second), shapes={"x": (1, 6)}, keep=0.5).keep["w1"]
    largest = np.argsort(np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=0))[-kept:]
    assert np.flatnonzero(mask).tolist() == sorted(largest)


def test_frozen_excluded_and_whole_groups_are_told():
    found = plan(conv_net(), keep=0.5, exclude=("conv1",))
    reasons = {r.where: r.why for r in found.refusals}
    assert found.keep.keys() == {"c2.w"}
    assert reasons["c1.w"] == "excluded by --exclude"
    assert any("reaches the output 'y'" in why for why in reasons.values())
    only = plan(conv_net(), keep=0.5, include=("c1.*",))
    assert only.keep.keys() == {"c1.w"}
    small = plan(mlp(np.ones((4, 6)), np.ones((3, 4))), shapes={"x": (1, 6)}, keep=0.5)
    assert not small.keep
    assert "--round-to 1" in {r.where: r.why for r in small.refusals}["w1"]
    with pytest.raises(UsageError, match="matches no weight"):
        plan(conv_net(), exclude=("conv9",))


@pytest.mark.parametrize("scope", ["layer", "joint"])
@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_targets_count_the_whole_model(scope, quantity):
    model = conv_net()
    found = plan(model, target=f"{quantity}=0.6", scope=scope, round_to=1)
    channels = analyse(model, SHAPES)
    count = channels.macs if quantity == "macs" else channels.parameters
    assert 0.5 < count(found.keep) / count({}) <= 0.6


def test_a_latency_target_is_measured():
    model, asked = conv_net(), []
    channels = analyse(model, SHAPES)

    def latency(given, keep):
        asked.append(given)
        return channels.macs(keep) / channels.macs({})

    found = Magnitude(target="latency=0.5").plan(model, None, Resources(input_shapes=SHAPES, latency=latency))
    assert asked
    assert all(given is model for given in asked)
    assert channels.macs(found.keep) <= 0.5 * channels.macs({})
    with pytest.raises(UsageError, match="cannot be measured"):
        plan(model, target="latency=0.5")


def test_rounding_that_costs_much_is_told():
    wide = mlp(RNG.normal(size=(40, 6)), RNG.normal(size=(3, 40)))
    found = plan(wide, shapes={"x": (1, 6)}, keep=0.7)
    assert found.keep["w1"].sum() == 16
    assert "--round-to 1" in found.warnings[0]
    exact = plan(wide, shapes={"x": (1, 6)}, keep=0.7, round_to=1)
    assert exact.keep["w1"].sum() == 28
    assert not exact.warnings


def test_taylor_needs_data_and_uses_it():
    with pytest.raises(UsageError, match="--data"):
        plan(conv_net(), importance="taylor")
    given = plan(conv_net(), task_for((3, 8, 8), 5), importance="taylor").keep
    plain = plan(conv_net()).keep
    assert {name: mask.sum() for name, mask in given.items()} == {n: m.sum() for n, m in plain.items()}
    assert any((given[name] != plain[name]).any() for name in given), (
        "by data the same channels go as by size"
    )


def test_nan_is_refused_by_name():
    first = RNG.normal(size=(32, 6))
    first[0, 0] = np.nan
    with pytest.raises(UnsupportedError, match="'w1' holds NaN"):
        plan(mlp(first, RNG.normal(size=(3, 32))), shapes={"x": (1, 6)})


# weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["layer", "joint"])
def test_the_largest_weights_stay(scope):
    model = conv_net()
    found = plan(model, granularity="weight", keep=0.2, scope=scope)
    assert found.weights.keys() == {"c1.w", "c2.w"}
    arrays = {n: np.abs(model.array(n).ravel()) for n in found.weights}
    stay = {n: e.mask().ravel() for n, e in found.weights.items()}
    pools = [list(arrays)] if scope == "joint" else [[n] for n in arrays]
    for names in pools:
        values = np.concatenate([arrays[n] for n in names])
        mask = np.concatenate([stay[n] for n in names])
        assert mask.sum() == int(0.2 * len(values) + 1e-9)
        assert values[mask].min() >= values[~mask].max()
    assert "no speed-up" in found.warnings[0]
    assert "would not get smaller" in {r.where: r.why for r in found.refusals}["fc.w"]


def test_the_file_with_zeros_is_smaller_and_computes_the_same(tmp_path):
    model = conv_net()
    source = to_proto(model.ir)
    result = onnxcompress.compress(
        source,
        method="magnitude",
        granularity="weight",
        keep=0.1,
        benchmark=False,
        output=tmp_path / "o.onnx",
    )
    before, after = result.run.models
    assert after.size_bytes < 0.45 * before.size_bytes
    found = plan(model, granularity="weight", keep=0.1)
    x = RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)
    expected = TorchGraph(model.with_encodings(found.weights, "test")).run({"x": x})["y"]
    assert np.allclose(open_session(tmp_path / "o.onnx").run({"x": x})["y"], expected, atol=1e-5)


def test_the_file_without_channels_is_smaller_and_passes_the_checker(tmp_path):
    result = onnxcompress.compress(
        to_proto(conv_net().ir), method="magnitude", keep=0.5, benchmark=False, output=tmp_path / "o.onnx"
    )
    onnx.checker.check_model(tmp_path / "o.onnx", full_check=True)
    shapes = {i.name: list(i.dims) for i in onnx.load(tmp_path / "o.onnx").graph.initializer}
    assert shapes["c1.w"] == [8, 3, 3, 3]
    assert shapes["c2.w"] == [16, 8, 3, 3]
    assert result.run.models[1].macs < 0.4 * result.run.models[0].macs


def test_a_target_without_channels_is_no_silent_plan():
    """Of several methods the others may change something: the plan must say that the target is missed."""
    with pytest.raises(UnsupportedError, match=r"params=0.5 cannot be reached: .*not named by --include"):
        plan(conv_net(), target="params=0.5", include=("fc.w",))
    assert not plan(conv_net(), include=("fc.w",)).keep


def test_nothing_to_cut_is_told(tmp_path):
    small = mlp(np.ones((4, 6)), np.ones((3, 4)))
    with pytest.raises(NothingChangedError, match="no multiple of 4"):
        onnxcompress.compress(to_proto(small.ir), method="magnitude", keep=0.5, benchmark=False)


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 0.0},
        {"keep": 1.5},
        {"keep": 0.5, "target": "macs=0.5"},
        {"target": "macs"},
        {"importance": "size"},
        {"round_to": 3},
        {"round_to": 0},
        {"granularity": "weight", "target": "latency=0.5"},
        {"granularity": "weight", "importance": "l1"},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(UsageError):
        Magnitude(**options)
