"""Augmentation: what the network is shown, what the original is asked, and how far is far enough."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from small_models import model_of

from onnxcompress.core.resources import Resources
from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.tensor_info import TensorInfo
from onnxcompress.engine.training.augmentation import Augmentation
from onnxcompress.engine.training.shifts import (
    Shift,
    channels_last,
    fitting_shifts,
    no_farther,
    rolled,
    shifted,
    words,
)
from onnxcompress.engine.training.trainer import Trainer


def filtered(weight: np.ndarray, shape: tuple[int, ...]) -> TorchGraph:
    """One number for each picture: its product with a filter."""
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "W"], ["y"])]
    initializers = {"W": weight.reshape(-1, 1).astype(np.float32)}
    return TorchGraph(model_of(nodes, {"x": ["N", *shape]}, {"y": ["N", 1]}, initializers))


def task_of(x: np.ndarray):
    info = TensorInfo("x", "tensor(float)", x.dtype, ("N", *x.shape[1:]))
    return make_task(open_data([{"x": row[None]} for row in x], [info]))


def waves(count: int, side: int, period: float) -> np.ndarray:
    """Pictures of a wave along the width, of random phase and height."""
    rng = np.random.default_rng(0)
    phase, height = rng.uniform(0, 2 * np.pi, (2, count, 1, 1, 1))
    x = (1 + height) * np.sin(2 * np.pi * np.arange(side) / period + phase)
    return np.broadcast_to(x, (count, 1, side, side)).astype(np.float32)


@pytest.mark.parametrize(("across", "down"), [(1, 0), (-2, 3), (0, -1), (0, 0)])
def test_whole_pixels_move_the_picture_and_repeat_its_edge(across, down):
    images = np.random.default_rng(0).normal(size=(2, 3, 9, 7)).astype(np.float32)
    pixels = torch.tensor([[across, down], [0, 0]], dtype=torch.float32)
    found = shifted(torch.from_numpy(images), pixels).numpy()
    rows = np.clip(np.arange(9) - down, 0, 8)
    columns = np.clip(np.arange(7) - across, 0, 6)
    np.testing.assert_allclose(found[0], images[0][:, rows][:, :, columns], atol=1e-5)
    np.testing.assert_allclose(found[1], images[1], atol=1e-5)


def test_half_a_pixel_is_the_mean_of_two():
    images = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
    found = shifted(torch.from_numpy(images), torch.tensor([[0.5, 0.0]])).numpy()
    np.testing.assert_allclose(found[..., 1:], (images[..., 1:] + images[..., :-1]) / 2, atol=1e-5)


def test_every_picture_is_moved_by_itself_within_the_distance():
    images = torch.zeros(400, 1, 15, 15)
    images[:, :, 7, 7] = 1
    torch.manual_seed(0)
    found = Shift(2.0, False).apply(images)
    ramp = torch.arange(15.0) - 7
    across, down = (found.sum((1, 2)) * ramp).sum(1), (found.sum((1, 3)) * ramp).sum(1)
    for moved in (across, down):
        assert moved.abs().max() <= 2 + 1e-4
        assert moved.std() == pytest.approx(2 / np.sqrt(3), rel=0.1)
    assert abs(np.corrcoef(across, down)[0, 1]) < 0.15
    last = Shift(2.0, True).apply(images.movedim(1, -1))
    assert last.shape == (400, 15, 15, 1)
    assert (last.sum((1, 2, 3)) - 1).abs().max() < 1e-4


def test_whole_pixels_are_those_of_padding_with_the_edge():
    images = np.random.default_rng(0).normal(size=(12, 3, 7, 9)).astype(np.float32)
    pixels = np.random.default_rng(1).integers(-3, 4, (12, 2))
    padded = np.pad(images, ((0, 0), (0, 0), (3, 3), (3, 3)), mode="edge")
    expected = [p[:, 3 - y : 10 - y, 3 - x : 12 - x] for p, (x, y) in zip(padded, pixels, strict=True)]
    assert (rolled(torch.from_numpy(images), torch.from_numpy(pixels)).numpy() == np.array(expected)).all()


def test_whole_shifts_reach_all_places_as_often():
    images = torch.zeros(2000, 1, 9, 9)
    images[:, 0, 4, 4] = 1
    torch.manual_seed(0)
    found = Shift(1.5, False, whole=True).apply(images)
    assert set(found.unique().tolist()) == {0.0, 1.0}, "nothing is blurred"
    counts = found.sum((0, 1))[3:6, 3:6]
    assert counts.sum() == 2000
    assert counts.flatten().tolist() == pytest.approx([2000 / 9] * 9, rel=0.25)


def test_pictures_are_shifted_by_whole_pixels_unless_they_are_turned_or_hardly_moved():
    x = np.ones((50, 1, 20, 20), np.float32) * np.arange(50, dtype=np.float32)[:, None, None, None]
    graph, task = filtered(np.ones((20, 20)), (1, 20, 20)), task_of(x)
    plain = fitting_shifts(graph, task)
    assert plain["x"].whole
    assert words(plain) == "shifted by up to 2 whole pixels"
    assert not fitting_shifts(graph, task, turned=True)["x"].whole
    assert no_farther(plain, None) == plain
    assert no_farther(plain, 1.2)["x"] == Shift(1.2, False, whole=True)
    assert no_farther(plain, 9.0)["x"] == plain["x"]
    assert no_farther(plain, 0.4)["x"] == Shift(0.4, False, whole=False)


def test_a_linear_map_moves_points_of_the_edge_and_not_the_middle():
    images = torch.zeros(2, 1, 21, 21)
    images[:, 0, 10, 10] = images[:, 0, 10, 16] = 1
    linear = torch.zeros(2, 2, 2)
    linear[0, 0, 0] = 3.0  # what is sampled lies farther out, at the edge by 3 of 10.5
    linear[1, 1, 0] = 3.0  # and farther down, the more it lies to the right
    stretched, sheared = shifted(images, torch.zeros(2, 2), linear)[:, 0]
    centre = torch.arange(21.0) - 10
    right = stretched[10, 12:]
    assert stretched[10, 10] > 0.7
    assert float((right * centre[12:]).sum() / right.sum()) == pytest.approx(6 / (1 + 3 / 10.5), abs=0.2)
    column = sheared[:, 16]
    assert float((column * centre).sum() / column.sum()) == pytest.approx(-6 * 3 / 10.5, abs=0.2)


@pytest.mark.parametrize("sides", [(16, 16), (16, 64), (40, 10)])
def test_a_linear_map_moves_no_point_farther_than_it_says(sides):
    height, width = sides
    down, across = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    for to in range(2):
        for of in range(2):
            linear = torch.zeros(1, 2, 2)
            linear[0, to, of] = 2.0
            moved = [(shifted(v[None, None], torch.zeros(1, 2), linear)[0, 0] - v) for v in (across, down)]
            most = [float(m.abs().max()) for m in moved]
            assert 0.9 < most[to] <= 2.001
            assert most[1 - to] < 1e-4


def test_turned_pictures_differ_from_shifted_ones():
    torch.manual_seed(3)
    images = torch.rand(5, 1, 16, 16)
    torch.manual_seed(0)
    plain = Shift(1.0, False).apply(images)
    torch.manual_seed(0)
    turned = Shift(1.0, False, turned=True).apply(images)
    assert turned.shape == images.shape
    assert (plain - turned).abs().mean() > 0.01


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 3, 32, 32), False),
        ((5, 32, 32, 3), True),
        ((5, 1, 28, 28), False),
        ((5, 784), None),
        ((5, 64, 14, 14), None),
        ((5, 1, 4, 100), None),
        ((5, 16, 3, 32, 32), None),
    ],
)
def test_what_may_be_a_picture(shape, expected):
    assert channels_last(shape) is expected


def test_the_distance_follows_from_what_the_original_notices():
    side, period, share = 40, 40.0, 0.02
    x = waves(300, side, period)
    weight = np.broadcast_to(np.sin(2 * np.pi * np.arange(side) / period), (side, side))
    found = fitting_shifts(filtered(weight, (1, side, side)), task_of(x), share)["x"]
    # A shift by d turns the phase by t = 2πd/period; the answer moves by |1 − e^{it}|, squared: 2 − 2 cos t.
    t = 2 * np.pi * found.pixels / period
    assert 2 - 2 * np.sin(t) / t == pytest.approx(share, rel=0.35)  # edges are repeated, not periodic
    assert not found.channels_last


def test_an_original_that_notices_the_least_shift_is_shown_none():
    x = np.random.default_rng(1).normal(size=(100, 1, 12, 12)).astype(np.float32)
    weight = np.random.default_rng(2).normal(size=(12, 12))
    assert fitting_shifts(filtered(weight, (1, 12, 12)), task_of(x)) == {}


def test_one_that_notices_nothing_is_shown_the_farthest():
    x = np.ones((50, 1, 20, 20), np.float32) * np.arange(50, dtype=np.float32)[:, None, None, None]
    found = fitting_shifts(filtered(np.ones((20, 20)), (1, 20, 20)), task_of(x))["x"]
    assert found.pixels == pytest.approx(2.0)


def test_out_of_time_no_shift_is_shown_but_one_that_is_known_not_to_be_noticed():
    x = np.ones((50, 1, 20, 20), np.float32) * np.arange(50, dtype=np.float32)[:, None, None, None]
    blind = filtered(np.ones((20, 20)), (1, 20, 20))
    assert fitting_shifts(blind, task_of(x), until=-np.inf)["x"].pixels == pytest.approx(2.0)
    side = 40
    weight = np.broadcast_to(np.sin(2 * np.pi * np.arange(side) / side), (side, side))
    seeing, waving = filtered(weight, (1, side, side)), task_of(waves(300, side, 40.0))
    assert fitting_shifts(seeing, waving, 0.02)
    assert fitting_shifts(seeing, waving, 0.02, until=-np.inf) == {}


def test_no_pictures_no_shift():
    x = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    assert fitting_shifts(filtered(np.ones(6), (6,)), task_of(x)) == {}


def test_noise_has_its_deviation_and_leaves_the_stack_alone():
    stack = {"x": torch.zeros(2000, 6), "other": torch.zeros(3)}
    augmentation = Augmentation(noise={"x": 0.5})
    assert augmentation.shift(stack) is stack
    noisy = augmentation.disturb(stack)
    assert noisy["x"].std().item() == pytest.approx(0.5, rel=0.05)
    assert noisy["other"] is stack["other"]
    assert (stack["x"] == 0).all()


@pytest.mark.parametrize("shift", [{}, {"x": Shift(1.0, False)}])
def test_the_original_answers_for_what_is_shown(shift):
    """The original as its own pupil: its loss is 0 where it was asked about what was shown."""
    x = np.random.default_rng(1).normal(size=(60, 1, 12, 12)).astype(np.float32)
    graph = filtered(np.random.default_rng(2).normal(size=(12, 12)), (1, 12, 12))
    trainer = Trainer(graph, task_of(x), Resources())
    assert trainer.run(1, lr=1e-9, augmentation=Augmentation(shift)).loss == pytest.approx(0, abs=1e-8)
    assert trainer.run(1, lr=1e-9, augmentation=Augmentation(shift, {"x": 1.0})).loss > 0.1


@pytest.mark.parametrize("kind", [{}, {"turned": True}, {"whole": True}])
def test_pictures_of_one_example_are_moved_alike(kind):
    """A pair says by what lies beside what: moved apart, its class is another."""
    first = torch.from_numpy(np.random.default_rng(3).normal(size=(6, 2, 12, 10)).astype(np.float32))
    stack = {"a": first, "b": first.movedim(1, -1), "other": torch.zeros(6, 3)}
    shifts = {"a": Shift(2.0, False, **kind), "b": Shift(2.0, True, **kind)}
    moved = Augmentation(shifts).shift(stack)
    assert not torch.equal(moved["a"], first)
    torch.testing.assert_close(moved["b"].movedim(-1, 1), moved["a"])
    assert moved["other"] is stack["other"]
