"""Independence: examples along another axis than the first, or answers that hang on what is fed beside."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from text_graphs import proto_of

from onnxcompress.core.errors import DataError
from onnxcompress.engine.data import open_data
from onnxcompress.engine.data.independence import independent
from onnxcompress.engine.runtime import open_session
from onnxcompress.pipeline._data import Given, random_examples, with_sizes
from onnxcompress.pipeline._original import open_original

RNG = np.random.default_rng(0)
T, F, H = 7, 5, 6
X = RNG.normal(size=(20, T, F)).astype(np.float32)
LABELS = RNG.integers(0, 3, 20)
RECURRENT = {"W": (1, 4 * H, F), "R": (1, 4 * H, H)}
LSTM = f"all, last = LSTM <hidden_size = {H}> ({{}}, W, R)\n"
HEAD = {"V": (H, 3), "zero": np.array([0], np.int64)}
LAST = "h = Squeeze (last, zero)\ny = MatMul (h, V)"


def opened(proto, spec, **options):
    session = open_session(proto.SerializeToString())
    return session, open_data(spec, session.inputs, outputs=session.outputs, predict=session.run, **options)


def answers(session, examples):
    stack = examples.inputs(np.arange(len(examples)))
    return examples.feeding.predict(session.run, stack)["y"]


def recurrent(steps: str, *, first: bool):
    """An LSTM with the time on the first axis, as ONNX has it, or with a Transpose in front."""
    shape = f"{steps}, N, {F}" if first else f"N, {steps}, {F}"
    body = LSTM.format("x") if first else "t = Transpose <perm = [1, 0, 2]> (x)\n" + LSTM.format("t")
    return proto_of(body + LAST, f"float[{shape}] x", "float[N, 3] y", RECURRENT | HEAD)


@pytest.mark.parametrize("steps", ["T", str(T)])
def test_examples_along_the_second_axis_are_found_and_fed_as_they_should_be(steps):
    session, examples = opened(recurrent(steps, first=True), {"x": X, "y": LABELS}, labels="y")
    assert examples.feeding.whole
    assert any("second axis" in note for note in examples.notes)
    assert not examples.warnings
    wanted = session.run({"x": X.swapaxes(0, 1)})["y"]
    np.testing.assert_allclose(answers(session, examples).reshape(20, 3), wanted, rtol=1e-5, atol=1e-6)
    assert examples.targets is not None
    assert examples.targets.classes == 3
    # Negative control: the same network with the examples in front.
    session, usual = opened(recurrent(steps, first=False), {"x": X, "y": LABELS}, labels="y")
    assert not usual.feeding.whole
    np.testing.assert_allclose(answers(session, usual), wanted, rtol=1e-5, atol=1e-6)


def test_random_numbers_are_fed_as_examples_are():
    for first in (True, False):
        original = open_original(recurrent("T", first=first), 1)
        original = with_sizes(original, {"x": (1, 4, F)}, Given())
        examples = random_examples(original, 5, seed=0)
        assert examples.feeding.whole == first
        assert len(examples) == 5


def test_time_first_in_the_outputs_as_well():
    body = LSTM.format("x") + "s = Squeeze (all, one)\ny = MatMul (s, V)"
    weights = RECURRENT | HEAD | {"one": np.array([1], np.int64)}
    proto = proto_of(body, f"float[T, N, {F}] x", "float[T, N, 3] y", weights)
    session, examples = opened(proto, {"x": X})
    assert examples.feeding.whole
    wanted = session.run({"x": X.swapaxes(0, 1)})["y"].swapaxes(0, 1)
    np.testing.assert_allclose(answers(session, examples)[:, :, 0], wanted, rtol=1e-5, atol=1e-6)


def test_batch_first_with_time_first_in_the_outputs_is_left_alone():
    body = "t = Transpose <perm = [1, 0, 2]> (x)\n" + LSTM.format("t") + "y = Squeeze (all, one)"
    proto = proto_of(
        body, f"float[N, T, {F}] x", f"float[T, N, {H}] y", RECURRENT | {"one": np.array([1], np.int64)}
    )
    _, examples = opened(proto, {"x": X})
    assert not examples.feeding.whole
    assert not examples.warnings


@settings(max_examples=30, deadline=None)
@given(
    body=st.sampled_from(
        ["y = Relu (x)", "y = MatMul (x, A)", "y = ReduceMean <axes = [1]> (x)", "y = Softmax (x)"]
    ),
    count=st.integers(2, 9),
)
def test_usual_models_are_left_alone(body, count):
    proto = proto_of(body, f"float[N, T, {F}] x", "float[N, K, L] y", {"A": (F, F)})
    _, examples = opened(proto, {"x": X[:count]})
    assert not examples.feeding.whole
    assert examples.warnings == ()


def test_eight_bit_scales_of_the_whole_batch_are_no_company():
    body = """
        q, s, z = DynamicQuantizeLinear (x)
        i = MatMulInteger (q, A, z)
        f = Cast <to = 1> (i)
        y = Mul (f, s)
    """
    proto = proto_of(body, f"float[N, {F}] x", "float[N, 4] y", {"A": RNG.integers(-99, 99, (F, 4), np.int8)})
    session, examples = opened(proto, {"x": X[:, 0]})
    assert independent(examples, session.run)
    assert examples.warnings == ()


@pytest.mark.parametrize("body", ["r = Relu (x)\ny = Log (r)", "m = Less (x, zero)\ny = Where (m, low, x)"])
def test_infinities_that_each_example_has_alone_are_none_of_its_company(body):
    weights = {"zero": np.zeros(1, np.float32), "low": np.full(1, -np.inf, np.float32)}
    proto = proto_of(body, f"float[N, {F}] x", f"float[N, {F}] y", weights)
    session, examples = opened(proto, {"x": X[:, 0]})
    assert not np.isfinite(answers(session, examples)).all()
    assert examples.warnings == ()


@pytest.mark.parametrize("batch", ["N", "4"])
def test_answers_that_hang_on_their_company_are_told_of(batch):
    body = "m = ReduceMean <axes = [0]> (x)\nd = Sub (x, m)\ny = MatMul (d, A)"
    proto = proto_of(body, f"float[{batch}, {F}] x", f"float[{batch}, 4] y", {"A": (F, 4)})
    _, examples = opened(proto, {"x": X[:, 0]})
    assert not examples.feeding.whole
    assert len(examples.warnings) == 1
    assert "fed beside it" in examples.warnings[0]


def test_similarities_of_all_pairs_are_told_of():
    proto = proto_of(
        "t = Transpose (z)\ny = MatMul (x, t)", f"float[N, {F}] x, float[N, {F}] z", "float[N, N] y", {}
    )
    _, examples = opened(proto, {"x": X[:, 0], "z": X[:, 1]})
    assert "fed beside it" in examples.warnings[0]


def graphs(count: int, nodes: int):
    adjacency = RNG.random((count, nodes, nodes)).astype(np.float32)
    return {"x": RNG.normal(size=(count, nodes, F)).astype(np.float32), "a": adjacency}


def test_graphs_with_an_adjacency_matrix_are_whole_feeds():
    body = "h = MatMul (x, A)\ny = MatMul (a, h)"
    proto = proto_of(body, f"float[n, {F}] x, float[n, n] a", "float[n, 3] y", {"A": (F, 3)})
    given = graphs(6, 9)
    labels = RNG.integers(0, 3, (6, 9))
    session, examples = opened(proto, {**given, "y": labels}, labels="y")
    assert examples.feeding.whole
    wanted = [session.run({n: v[k] for n, v in given.items()})["y"] for k in range(6)]
    np.testing.assert_allclose(answers(session, examples), np.stack(wanted), rtol=1e-5)
    assert examples.targets is not None
    assert examples.targets.classes == 3
    with pytest.raises(DataError, match="does not fit"):
        opened(proto, {"x": given["x"][:, :, :-1], "a": given["a"]})


def test_what_does_not_fit_an_input_that_is_not_square_is_still_refused():
    proto = proto_of("y = MatMul (x, A)", f"float[N, {F}] x", "float[N, 3] y", {"A": (F, 3)})
    with pytest.raises(DataError, match="does not fit"):
        opened(proto, {"x": X})


def test_one_example_tells_nothing():
    session, examples = opened(recurrent("T", first=True), {"x": X[:1]})
    assert independent(examples, session.run) is None
    assert not examples.feeding.whole
