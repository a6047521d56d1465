"""The proof holds for right cuts and fails for wrong ones, however little those show in the outputs."""

from dataclasses import replace

import numpy as np
import pytest
from cut_graphs import PERCEPTRON, channels_of, dropping, ints
from text_graphs import model_of

from onnxcompress.core.errors import VerificationError
from onnxcompress.encodings.dense import Dense
from onnxcompress.surgery import agreement, cut, proof, prove

RNG = np.random.default_rng(3)

DEEP = (
    "h = Conv <pads: ints = [1, 1, 1, 1]> (x, a, ab) g = Sigmoid (h) r = Mul (h, g) "
    "k = Conv (r, b, bb) n = InstanceNormalization (k, s, t) q = Relu (n) "
    "m = GlobalAveragePool (q) f = Flatten (m) y = Gemm (f, c, cb)",
    "float[N, 3, 6, 6] x", "float[N, 4] y",
    {"a": (8, 3, 3, 3), "ab": (8,), "b": (6, 8, 3, 3), "bb": (6,), "s": (6,), "t": (6,), "c": (6, 4),
     "cb": (4,)},
)  # fmt: skip

RESIDUAL = (
    "e = MatMul (x, a) l = LayerNormalization (e, s, t) h = MatMul (l, b) g = Gelu (h) k = MatMul (g, c) "
    "r = Add (e, k) o = LayerNormalization (r, u, v) y = MatMul (o, d)",
    "float[N, T, 5] x", "float[N, T, 3] y",
    {"a": (5, 8), "s": (8,), "t": (8,), "b": (8, 10), "c": (10, 8), "u": (8,), "v": (8,), "d": (8, 3)},
)  # fmt: skip


def sabotaged(result, name, change):
    """Return the result with another value of one weight."""
    array = np.asarray(change(result.model.array(name)))
    return replace(result, model=result.model.with_encodings({name: Dense(array)}, "sabotage"))


def rolled(axis):
    return lambda array: np.roll(array, 1, axis=axis)


def test_a_right_cut_passes_in_two_sizes():
    channels = channels_of(model_of(*DEEP), x=(1, 3, 6, 6))
    keep = {**dropping(channels, "a", 0, 5), **dropping(channels, "b", 1)}
    proof = prove(channels, keep, cut(channels, keep), feeds=[{"x": np.ones((1, 3, 6, 6), np.float32)}])
    assert (proof.inputs, proof.sizes, proof.single_precision, proof.silent_outputs) == (4, 2, (), ())
    assert proof.float64_error < 1e-13
    assert proof.ort_error < 1e-5
    assert proof.mixed_difference is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a", rolled(0)), ("ab", rolled(0)), ("b", rolled(0)), ("b", rolled(1)), ("s", rolled(0)),
        ("t", rolled(0)), ("c", rolled(0)), ("cb", rolled(0)), ("a", lambda a: a * np.float32(1 + 1e-6)),
    ],
)  # fmt: skip
def test_a_wrong_slice_fails(name, change):
    channels = channels_of(model_of(*DEEP), x=(1, 3, 6, 6))
    keep = {**dropping(channels, "a", 0, 5), **dropping(channels, "b", 1)}
    with pytest.raises(VerificationError, match="not the same as silencing"):
        prove(channels, keep, sabotaged(cut(channels, keep), name, change))


def test_a_wrong_slice_that_hardly_shows_fails():
    """The signal dies: in float32 nothing of the wrong weight is left in the output."""
    weights = {**DEEP[3], "c": RNG.normal(size=(6, 4)).astype(np.float32) * np.float32(1e-9)}
    channels = channels_of(model_of(*DEEP[:3], weights), x=(1, 3, 6, 6))
    keep = dropping(channels, "a", 0, 5)
    result = cut(channels, keep)
    assert prove(channels, keep, result).float64_error < 1e-13
    with pytest.raises(VerificationError, match=r"differs by .* rounding explains"):
        prove(channels, keep, sabotaged(result, "ab", rolled(0)))


def test_channels_other_than_asked_for_fail():
    channels = channels_of(model_of(*PERCEPTRON), x=(2, 6))
    with pytest.raises(VerificationError):
        prove(channels, dropping(channels, "a", 0), cut(channels, dropping(channels, "a", 1)))


def test_a_mixed_group_is_proven_with_its_survivors():
    model = model_of(*RESIDUAL, opset=20)
    channels = channels_of(model, x=(2, 3, 5))
    mixed = next(g for g in channels.free if g.mixed)
    keep = {mixed.name: np.arange(8) % 3 != 0, **dropping(channels, "b", 4, 5)}
    result = cut(channels, keep)
    proof = prove(channels, keep, result)
    assert proof.float64_error < 1e-13
    assert proof.mixed_difference > 1e-3
    for name, axis in (("s", 0), ("t", 0), ("u", 0), ("v", 0), ("a", 1), ("d", 0), ("c", 1)):
        with pytest.raises(VerificationError):
            prove(channels, keep, sabotaged(result, name, rolled(axis)))


def test_a_size_that_changed_with_the_cut_fails(monkeypatch):
    body = (
        "h = Gemm (x, a) s = Shape (h) w = Gather (s, one) f = Cast <to: int = 1> (w) "
        "r = Div (h, f) y = MatMul (r, b)"
    )
    model = model_of(body, "float[N, 6] x", "float[N, 3] y", {"a": (6, 8), "b": (8, 3), "one": ints(1)})
    channels = channels_of(model, x=(2, 6))
    keep = dropping(channels, "a", 0)
    assert prove(channels, keep, cut(channels, keep)).float64_error < 1e-13
    monkeypatch.setattr("onnxcompress.surgery.cutting.pin_sizes", lambda operation: None)
    with pytest.raises(VerificationError):
        prove(channels, keep, cut(channels, keep))


def test_outputs_that_jump_are_no_failure():
    """An index, a rounded value: rounding of what lies before may turn them into others."""
    body = (
        "h = Gemm (x, a) y = MatMul (h, b) i = ArgMax <axis: int = 1> (y) r = Round (y) "
        "z = Sub (y, y) w = Sign (z)"
    )
    outputs = "float[N, 3] y, int64[N, 1] i, float[N, 3] r, float[N, 3] w"
    model = model_of(body, "float[N, 6] x", outputs, {"a": (6, 8), "b": (8, 3)})
    channels = channels_of(model, x=(2, 6))
    keep = dropping(channels, "a", 2)
    proof = prove(channels, keep, cut(channels, keep))
    assert proof.silent_outputs == ("w",)


def test_outputs_without_numbers_prove_nothing_and_say_so():
    body = "h = Gemm (x, a) y = MatMul (h, b) q = Mul (y, zero) n = Div (q, q)"
    weights = {"a": (6, 8), "b": (8, 3), "zero": np.zeros(1, np.float32)}
    model = model_of(body, "float[N, 6] x", "float[N, 3] y, float[N, 3] n", weights)
    channels = channels_of(model, x=(2, 6))
    keep = dropping(channels, "a", 2)
    result = cut(channels, keep)
    assert prove(channels, keep, result).silent_outputs == ("n",)
    with pytest.raises(VerificationError):
        prove(channels, keep, sabotaged(result, "b", rolled(0)))


def test_an_operator_that_runs_in_float32_is_told(monkeypatch):
    monkeypatch.setattr("onnxcompress.engine.graph.ways.own_operator", _all_but_tanh)
    monkeypatch.setattr("onnxcompress.engine.graph.foreign_onnx2torch.trusted", lambda node: False)
    body = "h = Gemm (x, a) r = Tanh (h) y = MatMul (r, b)"
    model = model_of(body, "float[N, 6] x", "float[N, 3] y", {"a": (6, 8), "b": (8, 3)})
    channels = channels_of(model, x=(2, 6))
    keep = dropping(channels, "a", 2)
    result = cut(channels, keep)
    assert prove(channels, keep, result).single_precision == ("Tanh",)
    with pytest.raises(VerificationError):
        prove(channels, keep, sabotaged(result, "b", rolled(0)))


def _all_but_tanh(node):
    from onnxcompress.ops._base import OPS

    return None if node.op_type == "Tanh" else OPS.get((node.domain, node.op_type))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 2.5]), 0.25),
        (np.array([np.nan, 4.0]), np.array([np.nan, 4.0]), 0.0),
        (np.array([np.nan, 4.0]), np.array([1.0, 4.0]), np.inf),
        (np.zeros(2), np.zeros(2), 0.0),
        (np.zeros(2), np.array([0, 1e-30]), np.inf),
        (np.zeros(2), np.zeros(3), np.inf),
        (np.array([1, 2]), np.array([1, 3]), np.inf),
        ([np.ones(2), np.ones(1)], [np.ones(2), np.ones(1)], 0.0),
        ([np.ones(2)], [np.ones(2), np.ones(1)], np.inf),
        ({"cat": 1.0}, {"cat": 1.0}, 0.0),
        ({"cat": 1.0}, {"dog": 1.0}, np.inf),
        (np.array(["a"], object), np.array(["a"], object), 0.0),
        (np.ones(1), None, np.inf),
    ],
)
def test_distance(a, b, expected):
    assert agreement.distance(a, b) == expected


def test_what_rounding_drowns_hides_nothing_else():
    """What float32 alone turns into something else is named where it differs; others are held to theirs."""
    y, z = np.array([[1.0, 2.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    exact = {"y": y.astype(np.float64), "z": 1 - z.astype(np.float64)}

    def compared(found):
        runs = proof._Ort(lambda feeds: {"y": y, "z": z}, lambda feeds: found)
        runs.add({}, exact)
        return runs

    flipped = compared({"y": y, "z": 1 - z})
    assert (flipped.drowned, flipped.tolerance) == ({"z"}, proof.ORT_TOLERANCE)
    assert compared({"y": y, "z": z}).drowned == set(), "what is equal needs no excuse"
    with pytest.raises(VerificationError, match="output 'y'"):
        compared({"y": y + 0.01, "z": 1 - z})


def test_decisions_do_not_break_a_proof_that_holds_for_what_they_are_made_of():
    """A decision that turns around is named; where what it is made of is wrong, that is what fails."""
    y, z = np.array([[1.0, 2.0]], np.float32), np.array([[2.0]], np.float32)
    exact = {"y": y.astype(np.float64), "z": z.astype(np.float64)}

    def compared(found, decided):
        runs = proof._Ort(lambda feeds: {"y": y, "z": z}, lambda feeds: found, decided)
        runs.add({}, exact)
        return runs

    assert compared({"y": y, "z": np.zeros((1, 2), np.float32)}, {"z"}).drowned == {"z"}
    for found, decided in (({"y": y + 0.01, "z": z}, {"z"}), ({"y": y, "z": z + 1}, ())):
        with pytest.raises(VerificationError, match="output 'y'" if decided else "output 'z'"):
            compared(found, decided)


def test_in_float64_as_well():
    """Two equal scores, of which rounding decides which is larger."""
    body = "h = MatMul (x, w) s = MatMul (h, v) t, i = TopK <axis = 1> (s, k) y = Gather (b, i)"
    weights = {"w": (4, 8), "v": (8, 2), "k": np.array([1]), "b": np.array([1.0, 2.0], np.float32)}
    one, other = (model_of(body, "float[1, 4] x", "float[1, 1] y, float[1, 2] s", weights) for _ in range(2))
    v = one.array("v")
    tied = np.stack([v[:, 0], v[:, 0] * np.float32(1 + 1e-6)], 1)
    one = one.with_encodings({"v": Dense(tied)}, "tied")

    def compared(changed):
        found = agreement.Comparison64(one, changed, [], {}, [], rounded={})
        found.add({"x": np.ones((1, 4), np.float32)})
        return found.agreement

    turned = compared(other.with_encodings({"v": Dense(tied[:, ::-1].copy())}, "turned"))
    assert turned.worst[0] == "s", "not the decision, which has turned around as well"
    assert turned.drowned == {"y"}
    assert compared(one).drowned == set()
