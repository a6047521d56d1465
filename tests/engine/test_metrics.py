"""Metrics against their definitions, written out."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.core.errors import DataError, UsageError
from onnxcompress.engine.measures.metrics import Metric, OneAnswer


def value(name: str | Callable[..., object], *batches: tuple, output: str | None = None) -> float:
    metric = Metric(name, output)
    for batch in batches:
        metric.add(*batch)
    return metric.value()


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(2, 12))
def test_top1_and_top5_against_sorting(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (count, classes)).astype(np.float32)  # few values: many ties
    labels = rng.integers(0, classes, count)
    order = np.argsort(-scores, axis=1, kind="stable")
    for name, most in (("top1", 1), ("top5", 5)):
        expected = np.mean([label in order[i, :most] for i, label in enumerate(labels)])
        np.testing.assert_allclose(value(name, ({"y": scores}, labels)), expected, rtol=1e-12)


def test_batches_are_weighted_by_their_examples() -> None:
    scores = np.eye(3, dtype=np.float32)
    whole = ({"y": scores}, np.array([0, 1, 0]))
    parts = [({"y": scores[:2]}, np.array([0, 1])), ({"y": scores[2:]}, np.array([0]))]
    assert value("top1", whole) == value("top1", *parts) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ((4, 3), (4,)),
        ((4, 3), (4, 1)),
        ((4, 3, 1, 1), (4,)),
        ((4, 1, 3), (4,)),
        ((4, 3, 5, 5), (4, 5, 5)),
        ((4, 7, 3), (4, 7)),
    ],
)
def test_labels_find_the_axis_of_classes(scores: tuple[int, ...], labels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 3, labels)
    axis = 2 if scores == (4, 7, 3) else 1
    hot = np.eye(3, dtype=np.float32)[wanted]
    if wanted.ndim > 1:
        hot = np.moveaxis(hot, -1, axis)
    outputs = {"boxes": np.zeros((4, 9, 2, 2), np.float32), "y": hot.reshape(scores)}
    assert value("top1", (outputs, wanted)) == 1.0
    assert value("top1", (outputs, (wanted + 1) % 3)) == 0.0


def test_nan_scores_are_never_right() -> None:
    scores = np.full((2, 3), np.nan, np.float32)
    assert value("top1", ({"y": scores}, np.array([0, 1]))) == 0.0


def test_mse() -> None:
    outputs = {"y": np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)}
    labels = np.array([[1.0, 0.0], [3.0, 4.0]], np.float32)
    assert value("mse", (outputs, labels)) == pytest.approx((0 + 4 + 0 + 1) / 4)
    assert not Metric("mse").higher_is_better


def test_agreement_and_relative_l2_are_against_the_teacher() -> None:
    mine = {"y": np.array([[3.0, 0.0], [0.0, 5.0]], np.float32)}
    teacher = {"y": np.array([[3.0, 0.0], [4.0, 0.0]], np.float32)}
    assert value("agreement", (mine, None, teacher)) == 0.5
    np.testing.assert_allclose(value("relative_l2", (mine, None, teacher)), np.sqrt(16 + 25) / 5, rtol=1e-12)


def test_a_function_is_averaged_over_examples_and_named() -> None:
    def spread(outputs: dict, labels: object, teacher: object) -> float:
        return float(np.ptp(outputs["y"]))

    one, three = {"y": np.array([[0.0, 1.0]])}, {"y": np.array([[0.0, 5.0]] * 3)}
    assert value(spread, (one, None), (three, None)) == pytest.approx((1 + 3 * 5) / 4)
    assert Metric(spread).name == "spread"


def test_what_does_not_fit_is_an_error() -> None:
    outputs = {"y": np.zeros((4, 3), np.float32)}
    with pytest.raises(UsageError, match="unknown metric 'f1'"):
        Metric("f1")
    with pytest.raises(DataError, match="needs labels"):
        value("top1", (outputs, None))
    with pytest.raises(DataError, match="fit no output"):
        value("top1", (outputs, np.zeros((4, 8), np.int64)))
    with pytest.raises(DataError, match=r"'y' \(4, 3\)"):
        value("mse", (outputs, np.zeros((4, 8), np.float32)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 4))
def test_one_answer_to_all_is_the_best_constant(seed: int, count: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    classes, values = rng.integers(0, 3, count), rng.normal(size=(count, 2)).astype(np.float32)
    for name, labels in (("top1", classes), ("mse", values)):
        one = OneAnswer(name)
        for part in np.array_split(labels, parts):
            one.add(part if len(part) else None)
        expected = max(np.mean(classes == c) for c in range(3)) if name == "top1" else values.var(0).mean()
        assert one.value() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", ["top5", "agreement", lambda outputs, labels, teacher: 1.0])
def test_of_other_metrics_no_answer_to_all_is_known(metric: str | Callable[..., object]) -> None:
    one = OneAnswer(metric)
    one.add(np.arange(3))
    assert one.value() is None
    assert OneAnswer("top1").value() is None
