"""Models that leave sizes open are cut for all of them: oracle is the original with the channels silenced."""

from __future__ import annotations

import numpy as np
import pytest
from cut_graphs import dropping, run
from text_graphs import model_of

from onnxcompress import surgery
from onnxcompress.engine.bottleneck.choice import gated_groups
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.channels.other_sizes import LOOKS, attempted
from onnxcompress.engine.widths import widths_of
from onnxcompress.surgery.tensors import Tensors


def ints(*values):
    return np.array(values, np.int64)


PATCHES = (
    "p = Conv <strides = [16, 16]> (x, a) s = Shape (p) f = Reshape (p, flat) r = Relu (f) "
    "g = Reshape (r, s) m = Conv (g, b) y = Relu (m)"
)
"""A map is flattened and gets its shape back from a Shape, which tells the number of channels, too."""


def patches():
    return model_of(
        PATCHES, "float[N, 3, H, W] x", "float[N, 5, h, w] y",
        {"a": (8, 3, 16, 16), "b": (5, 8, 1, 1), "flat": ints(0, 0, -1)},
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 3, 64, 48), (2, 3, 47, 33)])
def test_what_a_stride_rounds_away_stays_open(shape):
    model = patches()
    channels = analyse(model, {"x": shape})
    assert [channels.is_dynamic("p", axis) for axis in range(4)] == [True, False, True, True]
    keep = dropping(channels, "a", 1, 2, 6)
    result = surgery.cut(channels, keep)
    assert surgery.prove(channels, keep, result).sizes == 3
    assert result.model.array("a").shape == (5, 3, 16, 16)
    weights = {"a": model.array("a"), "b": model.array("b").copy()}
    weights["b"][:, [1, 2, 6]] = 0
    whole = model_of(
        PATCHES, "float[N, 3, H, W] x", "float[N, 5, h, w] y", {**weights, "flat": ints(0, 0, -1)}
    )
    for size in ((1, 16, 20), (1, 64, 100), (3, 33, 200), (2, 17, 31)):
        x = np.random.default_rng(0).normal(size=(size[0], 3, *size[1:]))
        np.testing.assert_allclose(run(result.model, x=x)["y"], run(whole, x=x)["y"], rtol=1e-4, atol=1e-4)


def test_a_number_that_no_size_changes_is_constant():
    """The other side: a row of patches in one direction is fixed, and goes into the file as a number."""
    model = model_of(
        PATCHES, "float[N, 3, 32, W] x", "float[N, 5, 2, w] y",
        {"a": (8, 3, 16, 16), "b": (5, 8, 1, 1), "flat": ints(0, 0, -1)},
    )  # fmt: skip
    channels = analyse(model, {"x": (1, 3, 32, 32)})
    assert [channels.is_dynamic("p", axis) for axis in range(4)] == [True, False, False, True]


def tried(limit, *, each=True):
    """Return the lengths that a model with room for ``limit`` numbers was looked at with."""
    asked, shapes = [], {"x": (1, 12), "y": (12,)}

    def attempt(other):
        asked.append((other["x"][1], other["y"][0]))
        return asked[-1] if sum(asked[-1]) <= limit else None

    names = [[("x", 1)], [("y", 0)]]
    found = attempted(shapes, names, attempt, rows=LOOKS, each=each)
    assert len(asked) == len(set(asked))
    return found


def test_lengths_change_together_or_else_each_alone():
    assert tried(99) == [(13, 13), (24, 24), (6, 6)]
    # No room for one more of both: one less; none for twice of both, but for twice of one.
    assert tried(24) == [(11, 11), (6, 6)]
    assert tried(36) == [(13, 13), (24, 12), (12, 24), (6, 6)]
    assert tried(36, each=False) == [(13, 13), (24, 12), (6, 6)]
    assert tried(0) == []


def test_a_constant_that_was_changed_is_not_given_for_what_it_was():
    model = patches()
    tensors = Tensors(model)
    first = tensors.new("target", ints(1, 49, 128))
    assert tensors.new("again", ints(1, 49, 128)) is first
    tensors.set(first, ints(1, 49, 64))
    second = tensors.new("target", ints(1, 49, 128))
    assert second is not first
    assert tensors.array(second).tolist() == [1, 49, 128]
    assert tensors.array(first).tolist() == [1, 49, 64]


GROUPED = (
    "p = Conv <pads = [1, 1, 1, 1]> (x, a) s = Shape (p) f = Reshape (p, grouped) "
    "n = InstanceNormalization (f, ones, zeros) g = Reshape (n, s) m = Mul (g, gamma) r = Relu (m) "
    "y = Conv (r, b)"
)
"""Group normalisation as torch writes it; the pixels of a group's channels lie along one axis."""


def grouped(**weights):
    return model_of(
        GROUPED, "float[N, 3, H, W] x", "float[N, 5, H, W] y",
        {"a": (8, 3, 3, 3), "b": (5, 8, 1, 1), "gamma": (8, 1, 1), "ones": np.ones(2, np.float32),
         "zeros": np.zeros(2, np.float32), "grouped": ints(0, 2, -1), **weights},
    )  # fmt: skip


def normalised(x, a, gamma, b, groups=2):
    """The same in NumPy, with as many channels as ``a`` makes."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    made = np.einsum("nchwij,ocij->nohw", windows, a)
    apart = made.reshape(len(x), groups, -1)
    apart = (apart - apart.mean(2, keepdims=True)) / np.sqrt(apart.var(2, keepdims=True) + 1e-5)
    return np.einsum("nohw,yo->nyhw", np.maximum(apart.reshape(made.shape) * gamma, 0), b[:, :, 0, 0])


def test_channels_of_a_group_norm_are_cut_whatever_the_size_of_the_picture():
    model = grouped()
    channels = analyse(model, {"x": (1, 3, 8, 8)})
    keep = dropping(channels, "a", 0)
    (group,) = (channels.group(name) for name in keep)
    assert group.mixed
    result = surgery.cut(channels, keep)
    assert surgery.prove(channels, keep, result).sizes == 3
    cut = {name: result.model.array(name) for name in ("a", "gamma", "b")}
    assert len(cut["a"]) < 8
    for size in ((2, 3, 8, 8), (1, 3, 5, 12), (3, 3, 17, 4)):
        x = np.random.default_rng(1).normal(size=size).astype(np.float32)
        np.testing.assert_allclose(run(result.model, x=x)["y"], normalised(x, **cut), rtol=1e-3, atol=1e-4)
        whole = {name: model.array(name) for name in ("a", "gamma", "b")}
        np.testing.assert_allclose(run(model, x=x)["y"], normalised(x, **whole), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(2, 3, 8, 8), (1, 3, 5, 12)])
def test_of_many_groups_of_a_group_norm_whole_ones_are_cut_which_leaves_the_others_as_they_are(size):
    model = grouped(ones=np.ones(4, np.float32), zeros=np.zeros(4, np.float32), grouped=ints(0, 4, -1))
    channels = analyse(model, {"x": (1, 3, 8, 8)})
    keep = dropping(channels, "a", 0)
    (group,) = (channels.group(name) for name in keep)
    assert (group.size, group.mixed) == (4, False)
    assert gated_groups(channels, (), (), inputs=False)[0] == (group,)
    result = surgery.cut(channels, keep)
    assert surgery.prove(channels, keep, result).sizes == 3
    cut = {name: result.model.array(name) for name in ("a", "gamma", "b")}
    assert len(cut["a"]) == 6
    x = np.random.default_rng(1).normal(size=size).astype(np.float32)
    found = run(result.model, x=x)["y"]
    np.testing.assert_allclose(found, normalised(x, **cut, groups=3), rtol=1e-3, atol=1e-4)
    whole = {name: model.array(name).copy() for name in ("a", "gamma", "b")}
    whole["b"][:, :2] = 0
    np.testing.assert_allclose(found, normalised(x, **whole, groups=4), rtol=1e-3, atol=1e-4)


def test_blocks_of_a_group_norm_are_counted_in_the_channels_of_the_layers():
    """8 groups of 4: a block of 16 channels is 4 groups, of which the norm's scale has one number each."""
    model = grouped(
        a=(32, 3, 3, 3), b=(5, 32, 1, 1), gamma=(32, 1, 1), ones=np.ones(8, np.float32),
        zeros=np.zeros(8, np.float32), grouped=ints(0, 8, -1),
    )  # fmt: skip
    (group,) = analyse(model, {"x": (1, 3, 8, 8)}).free
    assert widths_of(group, 16).tolist() == [1, 2, 3, 4, 8]
    assert widths_of(group, 4).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_where_the_length_is_a_number_from_the_sizes_nothing_is_cut():
    """Negative control: the length of the long axis is computed, and would be that of before."""
    model = model_of(
        "p = Conv <pads = [1, 1, 1, 1]> (x, a) s = Shape (p) h = Slice (s, from, to) w = ReduceProd (h) "
        "v = Mul (w, four) k = Shape (x) e = Slice (k, first, last) t = Concat <axis = 0> (e, two, v) "
        "f = Reshape (p, t) n = InstanceNormalization (f, ones, zeros) g = Reshape (n, s) y = Conv (g, b)",
        "float[N, 3, H, W] x", "float[N, 5, H, W] y",
        {"a": (8, 3, 3, 3), "b": (5, 8, 1, 1), "ones": np.ones(2, np.float32),
         "zeros": np.zeros(2, np.float32), "from": ints(2), "to": ints(4), "four": ints(4), "two": ints(2),
         "first": ints(0), "last": ints(1)},
    )  # fmt: skip
    channels = analyse(model, {"x": (1, 3, 8, 8)})
    assert "a" not in {m.tensor for g in channels.free for m in g.members if not m.consumes}
