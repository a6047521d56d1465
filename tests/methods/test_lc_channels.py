"""Group l0 over channels: the closest choice, exact zeros where a channel goes, and what training gains."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from onnxcompress.core.errors import UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.layers import layers
from onnxcompress.engine.lc.channels import ChannelPruning, kept, slices_of
from onnxcompress.methods.lc_channels import LcChannels
from onnxcompress.methods.magnitude import Magnitude
from onnxcompress.pipeline._carrying_out import carry_out

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from pruning_models import conv_net, mlp, model_of, task_for

SHAPES = {"x": (1, 3, 8, 8)}
QUICK = {"steps": 6, "epochs": 3, "batch_size": 32, "lr": 0.05, "augment": False, "mix": False}
RNG = np.random.default_rng(0)


def three_layers(widths=(4, 3, 4, 2), seed=0):
    """x → Gemm → Relu → Gemm → Relu → Gemm → y: two groups that share the weight in the middle."""
    rng = np.random.default_rng(seed)
    nodes, value, tensors = [], "x", {}
    for k in range(3):
        tensors |= {
            f"w{k}": rng.normal(size=(widths[k + 1], widths[k])),
            f"b{k}": rng.normal(size=widths[k + 1]),
        }
        out = "y" if k == 2 else f"h{k}"
        nodes.append(helper.make_node("Gemm", [value, f"w{k}", f"b{k}"], [out], f"fc{k}", transB=1))
        if k < 2:
            nodes.append(helper.make_node("Relu", [out], [f"r{k}"], f"relu{k}"))
        value = f"r{k}"
    return model_of(nodes, tensors, (widths[0],), widths[-1])


def projection_of(model, counts, shapes):
    channels = analyse(model, shapes)
    groups = channels.free
    names = [layer.weight for layer in layers(model)]
    slices = slices_of(groups, channels, names)

    def allocate(norms):
        return {
            g.name: np.isin(np.arange(g.size), np.argsort(-norms[g.name])[:count])
            for g, count in zip(groups, counts, strict=True)
        }

    weights = tuple(dict.fromkeys(part.weight for part in slices))
    return ChannelPruning(weights, {g.name: g.size for g in groups}, slices, allocate), groups


def distance(arrays, found):
    return sum(float(np.square(a - e.decode()).sum()) for a, e in zip(arrays, found, strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choice_in_one_group_is_closer(seed):
    """And on most inputs none in both groups together is: each is best for what stays of the other."""
    model = three_layers(seed=seed)
    projection, groups = projection_of(model, (2, 2), {"x": (1, 4)})
    assert [g.size for g in groups] == [3, 4]
    arrays = [model.array(n).astype(np.float64) for n in projection.weights]
    found = projection.project(arrays)
    w0, w1, w2 = (a for a in arrays)
    best = {}
    for first in itertools.combinations(range(3), 2):
        for second in itertools.combinations(range(4), 2):
            stay0 = np.isin(np.arange(3), first)
            stay1 = np.isin(np.arange(4), second)
            left = [w0 * stay0[:, None], w1 * stay1[:, None] * stay0, w2 * stay1]
            best[first, second] = sum(np.square(a - b).sum() for a, b in zip(arrays, left, strict=True))
    masks = kept(projection.slices, dict(zip(projection.weights, [e.decode() for e in found], strict=True)),
                 projection.sizes)  # fmt: skip
    chosen = tuple(tuple(np.flatnonzero(masks[g.name]).tolist()) for g in groups)
    assert distance(arrays, found) == pytest.approx(best[chosen])
    assert best[chosen] <= min(v for (a, b), v in best.items() if a == chosen[0] or b == chosen[1]) + 1e-9
    again = projection.project([e.decode() for e in found])
    assert all(np.array_equal(a.decode(), b.decode()) for a, b in zip(again, found, strict=True))


def test_a_previous_choice_that_is_closer_is_kept():
    model = three_layers((4, 8, 8, 2), seed=3)
    projection, _ = projection_of(model, (4, 4), {"x": (1, 4)})
    rng = np.random.default_rng(0)
    arrays = [model.array(n) for n in projection.weights]
    for _ in range(10):
        before = projection.project([a + rng.normal(size=a.shape) for a in arrays])
        cold, warm = (projection.project(arrays, previous=p) for p in (None, before))
        assert distance(arrays, warm) <= distance(arrays, cold) + 1e-9


def test_without_data_the_file_computes_what_zeros_do():
    model = conv_net()
    plan = LcChannels(keep=0.5).plan(model, None, Resources(input_shapes=SHAPES))
    assert not plan.weights
    assert {name: int(mask.sum()) for name, mask in plan.keep.items()} == {"c1.w": 8, "c2.w": 16}
    zeroed = model.with_encodings(plan.values, "zeros")
    done = carry_out(plan, model, SHAPES, method="lc-channels", task=None, seed=0)
    x = {"x": RNG.normal(size=(3, 3, 8, 8)).astype(np.float32)}
    assert np.allclose(TorchGraph(zeroed).run(x)["y"], TorchGraph(done.model).run(x)["y"], atol=1e-5)
    assert done.model.weights["c2.w"].shape == (16, 8, 3, 3)
    assert any("without training" in warning for warning in plan.warnings)


def test_training_lessens_what_the_cut_costs():
    """A second half of the units repeats the first, scaled: eight units can do what sixteen did."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(16, 6)), rng.normal(size=(3, 16)) * 0.5
    first[1::2], second[:, 1::2] = first[::2] * 3, second[:, ::2] * -0.2
    model, task = mlp(first, second), task_for((6,), 3, count=300)
    resources = Resources(input_shapes={"x": (1, 6)}, teacher=model)
    plan = LcChannels(keep=0.5, round_to=8, **QUICK).plan(model, task, resources)
    assert sum(mask.sum() for mask in plan.keep.values()) == 8
    losses = [point.compressed_loss for point in plan.training.points]
    assert min(losses) < 0.3 * losses[0]
    after = carry_out(plan, model, {"x": (1, 6)}, method="lc-channels", task=task, seed=0).model
    x = task.samples.inputs(task.validation)
    wanted, found = (TorchGraph(m).run(x)["y"] for m in (model, after))
    direct = LcChannels(keep=0.5, mode="dc", round_to=8).plan(model, task, resources)
    cut = TorchGraph(model.with_encodings(direct.values, "dc")).run(x)["y"]
    assert np.square(found - wanted).sum() < 0.4 * np.square(cut - wanted).sum()


def test_a_target_is_met_and_scopes_differ():
    model = conv_net()
    channels = analyse(model, SHAPES)
    for scope in ("layer", "joint"):
        plan = LcChannels(target="macs=0.4", scope=scope, round_to=4).plan(
            model, None, Resources(input_shapes=SHAPES)
        )
        assert channels.macs(plan.keep) <= 0.4 * channels.macs({})
    timed = []

    def latency(model, keep):
        timed.append(keep)
        return 0.3 + 0.7 * np.mean([mask.mean() for mask in keep.values()]) if keep else 1.0

    resources = Resources(input_shapes=SHAPES, latency=latency, teacher=model)
    task = task_for((3, 8, 8), 5, count=60)
    plan = LcChannels(target="latency=0.7", round_to=4, **QUICK | {"epochs": 0.5}).plan(
        model, task, resources
    )
    assert 0.3 < latency(model, plan.keep) <= 0.7
    assert len(timed) < 20  # not at every C step


def test_the_widths_are_those_of_magnitude():
    model = conv_net()
    resources = Resources(input_shapes=SHAPES)
    for options in ({"keep": 0.3, "round_to": 4}, {"keep": 0.7}, {"target": "params=0.5", "round_to": 1}):
        one, other = (kind(**options).plan(model, None, resources) for kind in (LcChannels, Magnitude))
        assert {n: m.sum() for n, m in one.keep.items()} == {n: m.sum() for n, m in other.keep.items()}


def test_what_cannot_be_trained_stays_whole_and_is_named():
    model = conv_net()
    book = AdaptiveCodebook(16).project([model.array("c2.w")])[0]
    packed = model.with_encodings({"c2.w": book}, "test")
    plan = LcChannels(keep=0.5).plan(packed, None, Resources(input_shapes=SHAPES))
    assert not plan.keep
    assert any(r.where == "c1.w" and "c2.w" in r.why for r in plan.refusals)
    left = LcChannels(keep=0.5, exclude=("conv1",)).plan(model, None, Resources(input_shapes=SHAPES))
    assert left.keep.keys() == {"c2.w"}
    assert any(r.where == "c1.w" and "--exclude" in r.why for r in left.refusals)
    almost = LcChannels(keep=0.99).plan(model, None, Resources(input_shapes=SHAPES))
    assert {name: mask.sum() for name, mask in almost.keep.items()} == {"c1.w": 12, "c2.w": 16}


@pytest.mark.parametrize(
    "options", [{"keep": 0}, {"keep": 0.5, "target": "macs=0.5"}, {"target": "size=1"}, {"round_to": 6}]
)
def test_options_out_of_range(options):
    with pytest.raises(UsageError):
        LcChannels(**options)
