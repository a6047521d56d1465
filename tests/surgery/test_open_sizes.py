"""Models that leave sizes open are cut for all of them: oracle is the original with the channels silenced."""

from __future__ import annotations

import numpy as np
import pytest
from cut_graphs import dropping, run
from text_graphs import model_of

from onnxcompress import surgery
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.channels.other_sizes import LOOKS, attempted
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
