"""Groups of small graphs whose answer can be worked out by hand."""

import numpy as np
import pytest
from text_graphs import model_of

from onnxcompress import surgery
from onnxcompress.couplings._base import COUPLINGS
from onnxcompress.engine.channels import analyse


def ints(*values):
    return np.array(values, np.int64)


def members(group):
    return {(m.tensor, m.axis, m.consumes) for m in group.members}


def channels_of(found, tensor, axis):
    """Return (group, channel) of every position along one axis of a constant."""
    positions = {}
    for group in found.groups:
        for member in group.members:
            if (member.tensor, member.axis) == (tensor, axis):
                for at in np.flatnonzero(member.channel_of >= 0):
                    assert at not in positions, "a position belongs to one group"
                    positions[int(at)] = (group.name, int(member.channel_of[at]))
    return [positions[k] for k in sorted(positions)]


def test_a_chain_has_a_group_a_hidden_layer():
    model = model_of(
        "h = Conv (x, a, ab) r = Relu (h) y = Conv (r, b)",
        "float[1, 3, 4, 4] x", "float[1, 5, 4, 4] y", {"a": (6, 3, 1, 1), "ab": (6,), "b": (5, 6, 1, 1)},
    )  # fmt: skip
    found = analyse(model, {"x": (1, 3, 4, 4)})
    (group,) = found.free
    assert (group.name, group.size) == ("a", 6)
    assert members(group) == {("a", 0, False), ("ab", 0, False), ("b", 1, True)}
    (site,) = group.sites
    assert (site.node.op_type, site.slot, site.axis, site.weight, site.weight_axis) == ("Conv", 0, 1, "b", 1)
    frozen = {g.name: g for g in found.groups if not g.free}
    assert frozen["a#2"].sliceable
    assert "reads 'x'" in frozen["a#2"].frozen[0]
    assert not any(m.tensor == "b" and m.axis == 0 for g in found.free for m in g.members)


def test_what_reaches_an_output_is_frozen_with_that_reason():
    model = model_of(
        "h = Gemm <transB = 1> (x, a) r = Relu (h) y = Gemm <transB = 1> (r, b) z = Identity (r)",
        "float[2, 3] x", "float[2, 5] y, float[2, 4] z", {"a": (4, 3), "b": (5, 4)},
    )  # fmt: skip
    found = analyse(model, {"x": (2, 3)})
    assert not found.free
    reasons = [why for g in found.groups for why in g.frozen]
    assert "reaches the output 'z'" in reasons


def test_a_residual_ties_all_that_is_added():
    model = model_of(
        "s = Conv (x, a) h = Relu (s) h1 = Conv (h, b) h2 = Conv (h1, c) t = Add (s, h2) y = Conv (t, d)",
        "float[1, 3, 2, 2] x", "float[1, 2, 2, 2] y",
        {"a": (4, 3, 1, 1), "b": (6, 4, 1, 1), "c": (4, 6, 1, 1), "d": (2, 4, 1, 1)},
    )  # fmt: skip
    found = analyse(model, {"x": (1, 3, 2, 2)})
    spine, inner = found.group("a"), found.group("b")
    assert members(spine) == {("a", 0, False), ("b", 1, True), ("c", 0, False), ("d", 1, True)}
    assert len(spine.sites) == 2
    assert members(inner) == {("b", 0, False), ("c", 1, True)}


def test_a_concat_keeps_the_offsets():
    model = model_of(
        "p = Conv (x, a) q = Conv (x, b) t = Concat <axis = 1> (p, q, p) y = Conv (t, c)",
        "float[1, 3, 2, 2] x", "float[1, 2, 2, 2] y",
        {"a": (2, 3, 1, 1), "b": (3, 3, 1, 1), "c": (2, 7, 1, 1)},
    )  # fmt: skip
    found = analyse(model, {"x": (1, 3, 2, 2)})
    assert channels_of(found, "c", 1) == [
        ("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("a", 0), ("a", 1),
    ]  # fmt: skip


def test_a_split_separates_the_halves():
    model = model_of(
        "h = Conv (x, a) p, q = Split <axis = 1> (h, sizes) r = Conv (q, b) t = Concat <axis = 1> (p, r) "
        "y = Conv (t, c)",
        "float[1, 3, 2, 2] x", "float[1, 2, 2, 2] y",
        {"a": (6, 3, 1, 1), "sizes": ints(2, 4), "b": (4, 4, 1, 1), "c": (2, 6, 1, 1)},
    )  # fmt: skip
    found = analyse(model, {"x": (1, 3, 2, 2)})
    halves = channels_of(found, "a", 0)
    assert len({name for name, _ in halves[:2]}) == 1
    assert {name for name, _ in halves[:2]} != {name for name, _ in halves[2:]}
    assert channels_of(found, "c", 1)[:2] == halves[:2]
    assert channels_of(found, "b", 1) == halves[2:]


def test_a_channel_shuffle_moves_labels_and_keeps_its_groups_equal():
    model = model_of(
        "h = Conv (x, a) r = Reshape (h, five) s = Transpose <perm = [0, 2, 1, 3, 4]> (r) "
        "f = Reshape (s, four) y = Conv (f, b)",
        "float[1, 3, 2, 2] x", "float[1, 2, 2, 2] y",
        {"a": (6, 3, 1, 1), "five": ints(1, 2, 3, 2, 2), "four": ints(1, 6, 2, 2), "b": (2, 6, 1, 1)},
    )  # fmt: skip
    found = analyse(model, {"x": (1, 3, 2, 2)})
    (group,) = found.free
    assert group.size == 3, "channel j of the first group of three goes with channel j of the second"
    assert [c for _, c in channels_of(found, "a", 0)] == [0, 1, 2, 0, 1, 2]
    assert [c for _, c in channels_of(found, "b", 1)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("order", "pattern"), [("nchw", [0, 0, 0, 0, 1, 1, 1, 1]), ("nhwc", [0, 1] * 4)])
def test_flatten_gives_a_channel_its_pixels(order, pattern):
    moved = (
        "m = Transpose <perm = [0, 2, 3, 1]> (h) f = Flatten (m)" if order == "nhwc" else "f = Flatten (h)"
    )
    model = model_of(
        f"h = Conv (x, a) {moved} y = Gemm (f, b)",
        "float[1, 3, 2, 2] x", "float[1, 3] y", {"a": (2, 3, 1, 1), "b": (8, 3)},
    )  # fmt: skip
    found = analyse(model, {"x": (1, 3, 2, 2)})
    assert [c for _, c in channels_of(found, "b", 0)] == pattern


def test_a_weight_that_is_reshaped_can_be_cut_along_its_own_axis():
    """The layout of old exporters: the matrix of the last layer is stored with pixels apart."""
    model = model_of(
        "h = Conv (x, a) f = Reshape (h, flat) w = Reshape (b, matrix) y = MatMul (f, w)",
        "float[1, 3, 4, 4] x", "float[1, 5] y",
        {"a": (3, 3, 1, 1), "flat": ints(1, 48), "b": (3, 4, 4, 5), "matrix": ints(48, 5)},
    )  # fmt: skip
    found = analyse(model, {"x": (1, 3, 4, 4)})
    (group,) = found.free
    assert members(group) == {("a", 0, False), ("b", 0, True)}


def test_attention_is_cut_by_heads():
    heads, width, length = 3, 4, 5
    text = " ".join(
        f"{n}0 = MatMul (x, w{n}) {n}1 = Reshape ({n}0, apart) {n} = Transpose <perm = [0, 2, 1, 3]> ({n}1)"
        for n in "qkv"
    )
    model = model_of(
        text + " kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, kt) p = Softmax (s) "
        "o = MatMul (p, v) o1 = Transpose <perm = [0, 2, 1, 3]> (o) o2 = Reshape (o1, flat) "
        "y = MatMul (o2, wo)",
        f"float[1, {length}, 7] x", f"float[1, {length}, 7] y",
        {"wq": (7, 12), "wk": (7, 12), "wv": (7, 12), "wo": (12, 7),
         "apart": ints(1, length, heads, width), "flat": ints(1, length, heads * width)},
    )  # fmt: skip
    found = analyse(model, {"x": (1, length, 7)})
    (group,) = found.free
    assert group.size == heads
    for tensor, axis in (("wq", 1), ("wk", 1), ("wv", 1), ("wo", 0)):
        assert [c for _, c in channels_of(found, tensor, axis)] == [0] * 4 + [1] * 4 + [2] * 4


def test_layer_norm_marks_the_width_as_mixed():
    model = model_of(
        "h = MatMul (x, a) n = LayerNormalization (h, s, b) y = MatMul (n, c)",
        "float[2, 3] x", "float[2, 2] y", {"a": (3, 4), "s": (4,), "b": (4,), "c": (4, 2)},
    )  # fmt: skip
    found = analyse(model, {"x": (2, 3)})
    (group,) = found.free
    assert group.mixed
    assert ("s", 0, False) in members(group)


def test_an_operator_without_a_rule_freezes_and_is_named(monkeypatch):
    assert ("", "Softplus") in COUPLINGS
    monkeypatch.delitem(COUPLINGS._entries, ("", "Softplus"))
    model = model_of(
        "h = Gemm (x, a) r = Softplus (h) y = Gemm (r, b)",
        "float[4, 3] x", "float[4, 2] y", {"a": (3, 4), "b": (4, 2)},
    )  # fmt: skip
    found = analyse(model, {"x": (4, 3)})
    assert not found.free
    assert found.unknown == {"Softplus": 1}
    assert any("Softplus" in why for g in found.groups for why in g.frozen)


def test_the_body_of_an_if_is_frozen_with_what_it_reads():
    model = model_of(
        "h = Gemm (x, a) c = ReduceSum <keepdims = 0> (x) z = Cast <to = 9> (c) "
        "y = If (z) <then_branch = t () => (float[2, 2] o1) { o1 = Gemm (h, b) }, "
        "else_branch = e () => (float[2, 2] o2) { o2 = Gemm (h, b) }>",
        "float[2, 3] x", "float[2, 2] y", {"a": (3, 4), "b": (4, 2)},
    )  # fmt: skip
    found = analyse(model, {"x": (2, 3)})
    assert not found.free
    assert any("body is not cut" in why for g in found.groups for why in g.frozen)


def test_costs_after_a_cut_are_those_of_the_smaller_model():
    model = model_of(
        "h = Conv <group = 2> (x, a) d = Conv <group = 4> (h, e) y = Conv (d, b)",
        "float[1, 2, 4, 4] x", "float[1, 3, 4, 4] y",
        {"a": (4, 1, 1, 1), "e": (4, 1, 1, 1), "b": (3, 4, 1, 1)},
    )  # fmt: skip
    found = analyse(model, {"x": (1, 2, 4, 4)})
    assert found.macs({}) == 16 * (4 + 4 + 12)
    assert found.parameters({}) == 4 + 4 + 12
    group = found.groups[[("b", 1, True) in members(g) for g in found.groups].index(True)]
    keep = np.arange(group.size) < group.size // 2
    assert found.parameters({group.name: keep}) == 2 + 2 + 6
    assert found.macs({group.name: keep}) == 16 * (2 + 2 + 6)
    assert found.cut_shape("d", {group.name: keep}) == (1, 2, 4, 4)


def test_the_same_model_is_analysed_once():
    model = model_of("y = Gemm (x, a)", "float[2, 3] x", "float[2, 2] y", {"a": (3, 2)})
    assert analyse(model, {"x": (2, 3)}) is analyse(model, {"x": (2, 3)})


def test_heads_folded_into_a_free_batch_can_be_cut():
    heads, width, length = 3, 4, 5
    text = " ".join(
        f"{n}0 = MatMul (x, w{n}) {n}1 = Reshape ({n}0, apart) {n}2 = Transpose <perm = [0, 2, 1, 3]> ({n}1) "
        f"{n} = Reshape ({n}2, folded)"
        for n in "qkv"
    )
    model = model_of(
        text + " kt = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, kt) p = Softmax (s) o = MatMul (p, v) "
        "o1 = Reshape (o, unfolded) o2 = Transpose <perm = [0, 2, 1, 3]> (o1) o3 = Reshape (o2, flat) "
        "y = MatMul (o3, wo)",
        f"float[N, {length}, 7] x", f"float[N, {length}, 7] y",
        {"wq": (7, 12), "wk": (7, 12), "wv": (7, 12), "wo": (12, 7),
         "apart": ints(-1, length, heads, width), "folded": ints(-1, length, width),
         "unfolded": ints(-1, heads, length, width), "flat": ints(-1, length, heads * width)},
    )  # fmt: skip
    found = analyse(model, {"x": (2, length, 7)})
    (group,) = found.free
    assert group.size == heads
    keep = {group.name: np.array([True, False, True])}
    result = surgery.cut(found, keep)
    assert surgery.prove(found, keep, result).sizes == 3


def test_halves_that_read_the_same_constants_are_groups_of_their_own():
    """A group kept in part must leave something of every axis, also where one half alone is pooled."""
    model = model_of(
        "h = Conv (x, a) p, q = Split <axis = 1> (h, sizes) r = MaxPool <kernel_shape = [2, 2]> (p) "
        "s = MaxPool <kernel_shape = [2, 2]> (q) t = Add (r, s) y = Conv (t, c)",
        "float[1, 3, 2, 2] x", "float[1, 2, 1, 1] y",
        {"a": (6, 3, 1, 1), "sizes": ints(3, 3), "c": (2, 3, 1, 1)},
    )  # fmt: skip
    tied = analyse(model, {"x": (1, 3, 2, 2)})
    assert [c for _, c in channels_of(tied, "a", 0)] == [0, 1, 2, 0, 1, 2]
    model = model_of(
        "h = Conv (x, a) p, q = Split <axis = 1> (h, sizes) r = MaxPool <kernel_shape = [2, 2]> (p) "
        "s = AveragePool <kernel_shape = [2, 2]> (q) t = Concat <axis = 1> (r, s) y = Conv (t, c)",
        "float[1, 3, 2, 2] x", "float[1, 2, 1, 1] y",
        {"a": (6, 3, 1, 1), "sizes": ints(3, 3), "c": (2, 6, 1, 1)},
    )  # fmt: skip
    apart = analyse(model, {"x": (1, 3, 2, 2)})
    halves = channels_of(apart, "a", 0)
    assert {name for name, _ in halves[:3]}.isdisjoint({name for name, _ in halves[3:]})


@pytest.mark.parametrize("width", [8, 9000], ids=["small", "too large to be kept"])
def test_a_weight_that_is_computed_is_no_activation(width):
    """The site lies on the operand that data reaches, also where the weight in front of it is a sum."""
    found = analyse(
        model_of(
            "h = MatMul (a, x) r = Relu (h) w = Add (b, c) y = MatMul (w, r)",
            "float[6, 5] x",
            "float[9, 5] y",
            {"a": (width, 6), "b": (9, width), "c": (9, width)},
        ),
        {},
    )
    (group,) = found.free
    assert [(site.node.op_type, site.slot, site.axis) for site in group.sites] == [("MatMul", 1, 0)]
    assert {(tensor, axis) for tensor, axis, _ in members(group)} == {("a", 0), ("b", 1), ("c", 1)}
    keep = {group.name: np.arange(width) % 4 != 0}
    surgery.prove(found, keep, surgery.cut(found, keep))
