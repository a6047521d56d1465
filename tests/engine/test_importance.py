"""Importance: norms by hand, scales, medians, and Taylor against what silencing really changes."""

from itertools import product

import numpy as np
import pytest
from onnx import helper
from pruning_models import conv_net, mlp, model_of, task_for, task_of

from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.engine.channels import analyse, silenced
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.importance._base import IMPORTANCES, Evidence, by_channel
from onnxcompress.engine.importance._squares import _alike
from onnxcompress.engine.importance.geometric_median import distances

RNG = np.random.default_rng(0)


def judged(name: str, model, task=None, seed: int = 0, shape=(3, 8, 8)):
    channels = analyse(model, {"x": (1, *shape)})
    found = IMPORTANCES[name]().scores(channels.free, Evidence(channels, task, seed=seed))
    return channels, found


@pytest.mark.parametrize("name", sorted(IMPORTANCES))
def test_every_criterion_scores_every_channel(name: str) -> None:
    task = task_for((3, 8, 8), 5)
    channels, found = judged(name, conv_net(), task)
    assert [g.size for g in channels.free] == [16, 32]
    for group in channels.free:
        scores = found.of[group.name]
        assert scores.shape == (group.size,)
        assert np.isfinite(scores).all()
        assert (scores >= 0).all()
        assert len(np.unique(scores)) > 1
    again = judged(name, conv_net(), task)[1]
    for key, scores in found.of.items():
        assert np.array_equal(scores, again.of[key]), "the same seed gives the same scores"
    assert IMPORTANCES[name].summary
    assert IMPORTANCES[name].source


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_norms_by_hand(name: str, power: int) -> None:
    first, second = RNG.normal(size=(8, 6)), RNG.normal(size=(3, 8))
    _, found = judged(name, mlp(first, second), shape=(6,))
    expected = np.linalg.norm(first, power, axis=1) * np.linalg.norm(second, power, axis=0)
    assert np.allclose(found.of["w1"] / found.of["w1"][0], expected / expected[0], rtol=1e-5)
    assert found.of["w1"].mean() == pytest.approx(1)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_scaling_a_channel_up_and_down_again_changes_no_importance(name: str) -> None:
    first, second = RNG.normal(size=(8, 6)), RNG.normal(size=(3, 8))
    scale = RNG.uniform(0.1, 10, 8)
    before = judged(name, mlp(first, second), shape=(6,))[1].of["w1"]
    after = judged(name, mlp(first * scale[:, None], second / scale), shape=(6,))[1].of["w1"]
    assert np.allclose(before, after, rtol=1e-4)


def test_the_scale_of_a_batch_norm_counts() -> None:
    scale = np.ones(16)
    scale[3] = 1e-6
    _, found = judged("l2", conv_net(**{"bn.g": scale}))
    assert np.argmin(found.of["c1.w"]) == 3


def test_gains_behind_one_maker_are_multiplied() -> None:
    rng = np.random.default_rng(5)
    arrays = {
        "w1": rng.normal(size=(8, 3, 3, 3)), "g": rng.uniform(0.1, 3, 8), "b": np.zeros(8),
        "m": np.zeros(8), "v": rng.uniform(0.5, 2, 8), "d": rng.normal(size=(8, 1, 3, 3)),
        "w2": rng.normal(size=(5, 8, 1, 1)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], epsilon=1e-3),
        helper.make_node("Conv", ["n", "d"], ["e"], group=8),
        helper.make_node("Conv", ["e", "w2"], ["f"]),
        helper.make_node("ReduceMean", ["f"], ["y"], axes=[2, 3], keepdims=0),
    ]
    _, found = judged("l2", model_of(nodes, arrays, (3, 8, 8), 5))
    made, filters = (np.sqrt(np.square(arrays[n]).sum((1, 2, 3))) for n in ("w1", "d"))
    read = np.sqrt(np.square(arrays["w2"]).sum((0, 2, 3)))
    expected = made * arrays["g"] / np.sqrt(arrays["v"] + 1e-3) * filters * read
    assert np.allclose(found.of["w1"], expected / expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("apart", [True, False])
def test_squares_alike_count_every_example_once(apart: bool) -> None:
    rng = np.random.default_rng(6)
    squares = {"a": rng.uniform(size=(6, 4)), "b": rng.uniform(size=(6 if apart else 1, 3))}
    found = _alike(squares, 6)
    assert sum(s.sum() for s in found.values()) == pytest.approx(6)
    if apart:
        assert np.allclose(sum(s.sum(axis=1) for s in found.values()), 1)
    assert not _alike({"a": np.zeros((6, 4))}, 6)["a"].any()


def test_bn_scale_is_gamma() -> None:
    scale = np.linspace(0.1, 2, 16)
    _, found = judged("bn-scale", conv_net(**{"bn.g": -scale}))
    assert np.allclose(found.of["c1.w"], scale / scale.mean(), rtol=1e-5)
    assert "c2.w" in found.warnings[0], "the second convolution has none, and that is told"


def test_bn_scale_refuses_a_model_without_any() -> None:
    with pytest.raises(UnsupportedError, match="fold it away"):
        judged("bn-scale", mlp(RNG.normal(size=(8, 6)), RNG.normal(size=(3, 8))), shape=(6,))


def test_distances_by_brute_force() -> None:
    filters = RNG.normal(size=(9, 4))
    expected = [sum(np.linalg.norm(a - b) for b in filters) for a in filters]
    assert np.allclose(distances(filters), expected)


def test_the_filter_in_the_middle_of_the_others_is_the_least_important() -> None:
    first = RNG.normal(size=(8, 6))
    first[5] = np.delete(first, 5, 0).mean(axis=0)
    _, found = judged("geometric-median", mlp(first, RNG.normal(size=(3, 8))), shape=(6,))
    assert np.argmin(found.of["w1"]) == 5


def test_random_depends_on_the_seed() -> None:
    one, two = (judged("random", conv_net(), seed=s)[1].of["c1.w"] for s in (0, 1))
    assert not np.array_equal(one, two)


def test_taylor_judges_no_channels_where_none_can_be_cut() -> None:
    channels = analyse(conv_net(), {"x": (1, 3, 8, 8)})
    evidence = Evidence(channels, task_for((3, 8, 8), 5, count=20))
    assert IMPORTANCES["taylor"]().scores([], evidence).of == {}


def test_taylor_needs_data() -> None:
    with pytest.raises(UsageError, match="--data"):
        judged("taylor", conv_net())


def test_taylor_without_labels_is_the_change_of_the_outputs_of_a_linear_network() -> None:
    """There the first order is exact: against silencing every channel in turn."""
    first, second = RNG.normal(size=(8, 6)) * RNG.uniform(0.2, 2, (8, 1)), RNG.normal(size=(3, 8))
    model, task = mlp(first, second, activation=None), task_for((6,), 3, count=300)
    _, found = judged("taylor", model, task, shape=(6,))
    x = task.samples.inputs(task.train)["x"]
    hidden = x @ first.T
    outputs = hidden @ second.T
    expected = [
        np.sqrt(np.square(hidden[:, [j]] * second[:, j] / outputs.std()).sum(axis=1).mean()) for j in range(8)
    ]
    scores = found.of["w1"] / np.sqrt(min(256, len(task.train)) * 4)
    assert np.allclose(scores, expected, rtol=0.15)
    assert np.argmin(scores) == np.argmin(expected)


def test_taylor_with_labels_is_the_change_of_the_loss_and_of_the_outputs_for_small_channels() -> None:
    """A channel that contributes a little changes either by its first-order term; examples weigh alike."""
    second = RNG.normal(size=(3, 8)) * 1e-3
    first = RNG.normal(size=(8, 6)) * RNG.uniform(0.2, 2, (8, 1))
    model, task = mlp(first, second), task_for((6,), 3, labelled=True, count=280)
    channels, found = judged("taylor", model, task, shape=(6,))
    x, labels = task.samples.inputs(task.train)["x"], task.samples.labels(task.train)
    original = TorchGraph(model)
    losses, outputs = _losses(original, x, labels), original.run({"x": x})["y"]
    of_loss, of_outputs = [], []
    for j in range(8):
        cut = TorchGraph(silenced(channels, {"w1": np.arange(8) != j}))
        of_loss.append(np.square(_losses(cut, x, labels) - losses))
        change = cut.run({"x": x})["y"].astype(np.float64) - outputs
        of_outputs.append([np.square(change @ signs) for signs in product((1, -1), repeat=3)])
    loss, change = (
        np.mean(part / np.sum(part, axis=0), axis=tuple(range(1, np.ndim(part))))
        for part in (np.array(of_loss), np.array(of_outputs))
    )
    squares = np.square(found.of["w1"])
    assert squares.sum() == pytest.approx(2)
    assert np.allclose(squares, loss + change, atol=0.05), "signs are drawn, once an example"
    assert not np.allclose(squares, 2 * loss, atol=0.05), "the loss alone would not do"


def test_one_wrong_example_does_not_rank_what_the_model_has_learned() -> None:
    """By the loss alone a channel that only one example hangs on would come before those that decide all."""
    first = np.zeros((4, 6), np.float32)
    first[:3, :3], first[3, 3] = np.eye(3), 1
    second = np.zeros((3, 4), np.float32)
    second[:, :3], second[0, 3] = 30 * np.eye(3), 30
    labels = np.arange(60) % 3
    x = np.zeros((60, 6), np.float32)
    x[np.arange(60), labels] = 1
    x[7] = [0, 0, 0, 1, 0, 0]
    _, found = judged("taylor", mlp(first, second), task_of(x, 3, labels), shape=(6,))
    assert labels[7] != 0, "decided wrongly by channel 3 alone"
    assert np.argmin(found.of["w1"]) == 3


def _losses(graph: TorchGraph, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    scores = graph.run({"x": x})["y"].astype(np.float64)
    log = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return -log[np.arange(len(x)), labels]


def test_sums_by_channel() -> None:
    values = np.arange(10.0).reshape(2, 5)
    sums = by_channel(values, np.array([1, 0, -1, 1, 0]), 2)
    assert np.array_equal(sums, [[1 + 4, 0 + 3], [6 + 9, 5 + 8]])
    assert np.array_equal(by_channel(values[0], np.array([1, 0, -1, 1, 0]), 2), [5, 3])
