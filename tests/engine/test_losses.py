"""Losses against their definitions, written out in NumPy in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from small_models import model_of, task_of

from onnxcompress.core.resources import Resources
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.losses import OutputFacts, cross_entropy, make_loss
from onnxcompress.engine.training.trainer import Trainer

RNG = np.random.default_rng(0)


def facts(variance=None, probabilities=(), labelled="y"):
    return OutputFacts(variance or {"y": 1.0}, frozenset(probabilities), labelled)


def log_softmax(scores):
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(2, 9))
def test_cross_entropy_is_minus_the_mean_log_probability(seed, count, classes):
    rng = np.random.default_rng(seed)
    scores, labels = rng.standard_normal((count, classes)) * 5, rng.integers(0, classes, count)
    expected = -log_softmax(scores)[np.arange(count), labels].mean()
    loss = make_loss("ce", facts(), True)
    found = loss({"y": torch.from_numpy(scores)}, torch.from_numpy(labels), None)
    np.testing.assert_allclose(float(found), expected, rtol=1e-12, atol=1e-14)
    p = torch.from_numpy(np.exp(log_softmax(scores)))
    of_probabilities = make_loss("ce", facts(probabilities=["y"]), True)(
        {"y": p}, torch.from_numpy(labels), None
    )
    np.testing.assert_allclose(float(of_probabilities), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("shape", "label"), [((4, 3, 1, 1), (4,)), ((4, 3, 5, 6), (4, 5, 6)), ((4, 7, 3), (4, 7))]
)
def test_cross_entropy_finds_the_class_axis(shape, label):
    scores, labels = RNG.standard_normal(shape), RNG.integers(0, 3, label)
    axis = 2 if shape == (4, 7, 3) else 1
    flat = np.moveaxis(scores, axis, -1).reshape(-1, 3)
    expected = -log_softmax(flat)[np.arange(len(flat)), labels.ravel()].mean()
    found = cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels), False)
    np.testing.assert_allclose(float(found), expected, rtol=1e-12, atol=1e-14)


def test_cross_entropy_of_a_vanished_probability_is_large_but_finite():
    p = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = cross_entropy(p, torch.tensor([0]), True)
    loss.backward()
    assert float(loss.detach()) > 80
    assert torch.isfinite(p.grad).all()


def test_kl_is_the_divergence_of_the_class_probabilities():
    mine, theirs = RNG.standard_normal((5, 4)), RNG.standard_normal((5, 4))
    t, s = log_softmax(theirs), log_softmax(mine)
    expected = (np.exp(t) * (t - s)).sum(1).mean()
    loss = make_loss("kl", facts(), False)
    found = loss({"y": torch.from_numpy(mine)}, None, {"y": torch.from_numpy(theirs)})
    np.testing.assert_allclose(float(found), expected, rtol=1e-12, atol=1e-14)
    assert float(
        loss({"y": torch.from_numpy(theirs)}, None, {"y": torch.from_numpy(theirs)})
    ) == pytest.approx(0)


def test_l2_counts_outputs_of_different_scale_alike():
    a, b = RNG.standard_normal((6, 4)), RNG.standard_normal((6, 2)) * 1000
    teacher = {"a": torch.from_numpy(a), "b": torch.from_numpy(b)}
    loss = make_loss("l2", facts({"a": a.var(), "b": b.var()}), False)
    only_a = {"a": torch.from_numpy(a + 0.1 * a.std()), "b": teacher["b"]}
    only_b = {"a": teacher["a"], "b": torch.from_numpy(b + 0.1 * b.std())}
    assert float(loss(only_a, None, teacher)) == pytest.approx(0.01 / 2)
    assert float(loss(only_b, None, teacher)) == pytest.approx(0.01 / 2)


def test_of_several_outputs_what_is_the_same_for_all_examples_weighs_nothing():
    """Boxes decoded with a constant grid and scores: the grid must not hide what the boxes say."""
    grid, moves, scores = np.linspace(0, 500, 8), RNG.standard_normal((40, 8)), RNG.standard_normal((40, 3))
    x = np.hstack([moves, scores]).astype(np.float32)
    weight = np.eye(11, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "B"], ["moved"]),
        helper.make_node("Add", ["moved", "grid"], ["boxes"]),
        helper.make_node("MatMul", ["x", "S"], ["scores"]),
    ]
    weights = {"B": weight[:, :8].copy(), "S": weight[:, 8:].copy(), "grid": grid.astype(np.float32)}
    outputs = {"boxes": ["N", 8], "scores": ["N", 3]}
    model = model_of(nodes, {"x": ["N", 11]}, outputs, weights)
    found = Trainer(TorchGraph(model), task_of(model, {"x": x}), Resources())._evaluator
    known = x[np.sort(found.batches.known)].astype(np.float64)
    expected = {
        "boxes": known[:, :8].var(axis=0, ddof=1).mean(),
        "scores": known[:, 8:].var(axis=0, ddof=1).mean(),
    }
    assert found.facts.divisors == pytest.approx(expected, rel=1e-4)
    assert found.facts.variance["boxes"] > 10_000
    # An output on its own is weighed against none: its whole variance.
    alone = OutputFacts({"y": 4.0}, frozenset(), None, varying={"y": 1.0})
    assert alone.divisors == {"y": 4.0}
    # A constant output has no other.
    constant = OutputFacts({"y": 4.0, "z": 2.0}, frozenset(), None, varying={"y": 1.0, "z": 0.0})
    assert constant.divisors == {"y": 1.0, "z": 2.0}


def test_gradient_of_l2_is_two_over_n_times_the_difference():
    y = torch.from_numpy(RNG.standard_normal((5, 3))).requires_grad_()
    t = torch.from_numpy(RNG.standard_normal((5, 3)))
    make_loss("l2", facts({"y": 0.25}), False)({"y": y}, None, {"y": t}).backward()
    np.testing.assert_allclose(y.grad.numpy(), 2 / 15 / 0.25 * (y.detach() - t).numpy(), rtol=1e-12)


def test_terms_add_up_with_their_factors():
    y, t = torch.from_numpy(RNG.standard_normal((5, 3))), torch.from_numpy(RNG.standard_normal((5, 3)))
    labels = torch.tensor([0, 1, 2, 0, 1])

    def value(name):
        return float(make_loss(name, facts(), True)({"y": y}, labels, {"y": t}))

    assert value("ce+0.5*kl+2*l2") == pytest.approx(value("ce") + 0.5 * value("kl") + 2 * value("l2"))
    both = make_loss("ce+kl", facts(), True)
    assert both.needs_labels
    assert both.needs_teacher
    assert not make_loss("ce", facts(), True).needs_teacher


def test_mse_takes_labels_of_the_same_size():
    y, labels = torch.from_numpy(RNG.standard_normal((5, 1))), torch.from_numpy(RNG.standard_normal(5))
    expected = ((y.numpy()[:, 0] - labels.numpy()) ** 2).mean()
    assert float(make_loss("mse", facts(), True)({"y": y}, labels, None)) == pytest.approx(expected)


def test_large_scores_are_compared_at_a_temperature():
    """Scores a thousand times larger must ask for the same proportions, not for smaller scores."""
    torch.manual_seed(0)
    teacher = torch.randn(64, 10)
    student = teacher + 0.3 * torch.randn(64, 10)

    def loss(scale):
        facts = OutputFacts({"y": float((teacher * scale).var())}, frozenset(), None)
        return make_loss("kl", facts, labelled=False)({"y": student * scale}, None, {"y": teacher * scale})

    torch.testing.assert_close(loss(1e3), loss(1e6), rtol=1e-4, atol=0.0)
    plain = torch.nn.functional.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(loss(1.0), plain)
