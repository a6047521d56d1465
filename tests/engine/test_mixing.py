from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.tensor_info import TensorInfo
from onnxcompress.engine.training import mixing
from onnxcompress.engine.training.mixing import with_mixtures


def task_of(count: int = 20, dtype=np.float32, labels: bool = False, seed: int = 0):
    rng = np.random.default_rng(0)
    info = TensorInfo("x", "tensor(float)", np.dtype(dtype), ("N", 3))
    out = TensorInfo("y", "tensor(float)", np.dtype(np.float32), ("N", 4))
    rows = [{"x": rng.integers(0, 9, (1, 3)).astype(dtype)} for _ in range(count)]
    if labels:
        rows = [row | {"labels": np.array([k % 4])} for k, row in enumerate(rows)]
    return make_task(open_data(rows, [info], outputs=[out], labels="labels" if labels else None), seed=seed)


def test_mixtures_lie_between_two_training_examples():
    task = task_of()
    more, added = with_mixtures(task)
    assert added == len(more.train) - len(task.train) > 0
    base, samples = task.samples.inputs(np.arange(20))["x"], more.samples
    got = samples.inputs(more.train)["x"]
    np.testing.assert_array_equal(got[: len(task.train)], base[task.train])
    for row, (i, j), share in zip(got[len(task.train) :], samples.pairs, samples.shares, strict=True):
        np.testing.assert_allclose(row, share * base[i] + (1 - share) * base[j], rtol=1e-6, atol=1e-6)


def test_validation_examples_are_never_mixed_in():
    task = task_of()
    more, _ = with_mixtures(task)
    assert not np.isin(more.samples.pairs, task.validation).any()
    np.testing.assert_array_equal(more.validation, task.validation)
    x = more.samples.inputs(task.validation)["x"]
    np.testing.assert_array_equal(x, task.samples.inputs(task.validation)["x"])


def test_seed_decides():
    first, second, other = (with_mixtures(task_of(seed=s))[0].samples for s in (1, 1, 2))
    np.testing.assert_array_equal(first.shares, second.shares)
    assert (first.shares != other.shares).any()


@pytest.mark.parametrize(
    "task",
    [task_of(labels=True), task_of(dtype=np.int64), replace(task_of(), random=True), task_of(count=2)],
    ids=["labels", "integers", "random", "one example"],
)
def test_none_are_added(task):
    assert with_mixtures(task) == (task, 0)


def test_none_are_added_to_examples_enough(monkeypatch):
    monkeypatch.setattr(mixing, "ENOUGH", 10)
    assert with_mixtures(task_of())[1] == 0


def test_their_size_is_bounded(monkeypatch):
    monkeypatch.setattr(mixing, "MOST_BYTES", 12 * 7)
    assert with_mixtures(task_of())[1] == 7


def test_noise_is_on_the_mixtures_alone_and_always_the_same():
    task = task_of(count=200)
    clean, added = with_mixtures(task)
    noisy, _ = with_mixtures(task, lambda: {"x": 0.5})
    np.testing.assert_array_equal(noisy.samples.inputs(task.train)["x"], task.samples.inputs(task.train)["x"])
    new = clean.train[-added:]
    drawn = noisy.samples.inputs(new)["x"] - clean.samples.inputs(new)["x"]
    assert drawn.std() == pytest.approx(0.5, rel=0.05)
    assert abs(drawn.mean()) < 0.05
    # An example's noise depends on neither the batch it is read in nor the order.
    np.testing.assert_array_equal(
        noisy.samples.inputs(new[5:8][::-1])["x"], noisy.samples.inputs(new)["x"][5:8][::-1]
    )
