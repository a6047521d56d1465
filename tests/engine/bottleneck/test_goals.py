"""Goals: what is read, several at once, numbers instead of shares, and what is out of reach."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from pruning_models import conv_net, task_for

from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.engine.bottleneck.averaging import Average
from onnxcompress.engine.bottleneck.choice import gated_groups
from onnxcompress.engine.bottleneck.goals import elements, measures, read_goals
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.training.shifts import Shift, rolled
from onnxcompress.methods.vib import Vib

SHAPES = {"x": (1, 3, 8, 8)}


def net():
    channels = analyse(conv_net(), SHAPES)
    return channels, gated_groups(channels, (), (), inputs=False)[0]


@pytest.mark.parametrize(
    "text", ["", "macs", "macs=1", "macs=0", "macs=-3", "time=0.5", "latency=3", "macs=0.5,"]
)
def test_what_cannot_be_read(text):
    with pytest.raises(UsageError, match="cannot read the target"):
        read_goals(text)


def test_a_quantity_is_named_once():
    with pytest.raises(UsageError, match="names macs twice"):
        read_goals("macs=0.5,params=0.4,macs=0.3")


def test_units():
    assert [(g.quantity, g.limit) for g in read_goals("macs=1.5M, params=7k,elements=0.5")] == [
        ("macs", 1.5e6), ("params", 7e3), ("elements", 0.5),
    ]  # fmt: skip


def test_the_goal_missed_by_most_counts():
    channels, groups = net()
    macs, params = channels.macs({}), channels.parameters({})
    found = measures(read_goals(f"macs={0.5 * macs:g},params=0.25"), channels, groups, None)
    assert found.most == pytest.approx(0.5)
    assert found.quick is None
    rng = np.random.default_rng(0)
    for _ in range(20):
        keep = {g.name: rng.random(g.size) < rng.random() for g in groups}
        held = channels.macs(keep) <= 0.5 * macs and channels.parameters(keep) <= 0.25 * params
        assert (found.share(keep) <= found.most * (1 + 1e-12)) == held
    one, two = found.reached(keep)
    assert (one.quantity, one.limit, one.reached) == ("macs", pytest.approx(0.5), channels.macs(keep) / macs)
    assert (two.quantity, two.limit, two.reached) == ("params", 0.25, channels.parameters(keep) / params)
    assert not found.met
    whole = elements(channels, groups, {})
    assert elements(channels, groups, {groups[0].name: np.arange(groups[0].size) < 1}) < whole


def test_a_latency_is_told_by_macs_until_it_is_measured():
    channels, groups = net()
    asked = []
    found = measures(read_goals("latency=0.6"), channels, groups, lambda keep: asked.append(1) or 0.9)
    half = {groups[0].name: np.arange(groups[0].size) < groups[0].size // 2}
    assert found.quick is not None
    assert found.quick(half) == pytest.approx(channels.macs(half) / channels.macs({}))
    assert not asked
    assert [goal.reached for goal in found.reached(half)] == [None]
    assert found.share(half) == pytest.approx(0.9)
    assert [goal.reached for goal in found.reached(half)] == [0.9]
    assert len(asked) == 1
    with pytest.raises(UsageError, match="cannot be measured"):
        measures(read_goals("latency=0.6"), channels, groups, None)


def test_all_goals_hold_in_the_end():
    model, task = conv_net(), task_for((3, 8, 8), 5, count=200)
    channels, groups = net()
    macs, params = channels.macs({}), channels.parameters({})
    found = Vib(
        target=f"macs={0.6 * macs:g},params=0.5,elements=0.7",
        round_to=1,
        epochs=8.0,
        after=0.0,
        batch_size=32,
    ).plan(model, task, Resources(input_shapes=SHAPES))
    assert channels.macs(found.keep) <= 0.6 * macs
    assert channels.parameters(found.keep) <= 0.5 * params
    assert elements(channels, groups, found.keep) <= 0.7 * elements(channels, groups, {})


def test_a_target_that_holds_already_is_said_before_training():
    told = []
    resources = Resources(input_shapes=SHAPES, progress=lambda fraction, words, point: told.append(words))
    task = task_for((3, 8, 8), 5, count=64)
    found = Vib(target="macs=1G,params=1M", round_to=1).plan(conv_net(), task, resources)
    assert not told
    assert not found.keep
    assert found.warnings == ("vib changed nothing: the target macs=1G,params=1M is met already",)
    assert any("is met already" in refusal.why for refusal in found.refusals)


def test_what_is_out_of_reach_is_said_before_training():
    told = []
    resources = Resources(input_shapes=SHAPES, progress=lambda fraction, words, point: told.append(words))
    task = task_for((3, 8, 8), 5, count=64)
    with pytest.raises(UnsupportedError, match=r"macs=10 cannot be reached.* not gated: .*output 'y'"):
        Vib(target="macs=10", round_to=1).plan(conv_net(), task, resources)
    assert not told
    with pytest.raises(UnsupportedError) as wide:
        Vib(target="macs=10").plan(conv_net(), task, resources)
    with pytest.raises(UnsupportedError) as narrow:
        Vib(target="macs=10", round_to=1).plan(conv_net(), task, resources)
    assert "--round-to 1" in str(wide.value)
    assert "--round-to" not in str(narrow.value)


def test_the_mean_forgets_and_gives_back():
    tensor = torch.zeros(3)
    average = Average([tensor], horizon=10)
    for _ in range(200):
        tensor.add_(1.0)
        average.add()
    # Weights 0.1 · 0.9^k on values that lie k back: the mean lies 9 behind.
    assert average.held[0][0].item() == pytest.approx(200 - 9, abs=0.1)
    with average.shown():
        assert tensor[0].item() == pytest.approx(191, abs=0.1)
    assert tensor[0].item() == 200


@pytest.mark.parametrize("last", [False, True])
def test_whole_pixels_are_moved_without_blur(last):
    image = torch.arange(2 * 3 * 8 * 9, dtype=torch.float32).reshape(2, 3, 8, 9)
    moved = rolled(image, torch.tensor([[1, 0], [-2, 3]]))
    assert torch.equal(moved[0, :, :, 1:], image[0, :, :, :-1])
    assert torch.equal(moved[0, :, :, 0], image[0, :, :, 0])
    assert torch.equal(moved[1, :, 3:, :-2], image[1, :, :-3, 2:])
    stack = image.movedim(1, -1) if last else image
    torch.manual_seed(0)
    seen = Shift(2.0, last, whole=True).apply(stack.repeat(40, 1, 1, 1))
    assert seen.shape == stack.repeat(40, 1, 1, 1).shape
    assert set(seen.unique().tolist()) <= set(image.unique().tolist())
