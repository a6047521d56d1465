"""What normalisation and Dropout do when a graph is trained, and what no other library computes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from onnxcompress.ops._base import OPS, Node
from onnxcompress.ops._examples import normal

BATCH = Node("BatchNormalization", 15, {"momentum": 0.8, "epsilon": 1e-5}, training=True)


def batch_inputs(*shape: int) -> list[torch.Tensor]:
    channels = shape[1]
    arrays = [normal(*shape) * 2 + 1, normal(channels, seed=1), normal(channels, seed=2)]
    tensors = [torch.from_numpy(a.astype(np.float64)) for a in arrays]
    return [*tensors, torch.zeros(channels).double(), torch.ones(channels).double()]


def test_batch_normalization_moves_its_statistics_when_trained() -> None:
    x, scale, bias, mean, variance = batch_inputs(6, 3, 4)
    y = OPS["", "BatchNormalization"].forward(BATCH, x, scale, bias, mean, variance)
    numbers = x.numpy()
    batch_mean, batch_variance = numbers.mean((0, 2)), numbers.var((0, 2))
    assert np.allclose(mean.numpy(), 0.2 * batch_mean, rtol=1e-12, atol=1e-12)
    assert np.allclose(variance.numpy(), 0.8 + 0.2 * batch_variance, rtol=1e-12, atol=1e-12)
    centred = (numbers - batch_mean[:, None]) / np.sqrt(batch_variance[:, None] + 1e-5)
    want = centred * scale.numpy()[:, None] + bias.numpy()[:, None]
    assert np.allclose(y.numpy(), want, rtol=1e-9, atol=1e-9)


def test_batch_normalization_leaves_its_statistics_when_not_trained() -> None:
    inputs = batch_inputs(6, 3, 4)
    OPS["", "BatchNormalization"].forward(dataclasses.replace(BATCH, training=False), *inputs)
    assert torch.equal(inputs[3], torch.zeros(3).double())


def test_a_batch_of_one_value_a_channel_is_normalised_by_the_stored_statistics() -> None:
    inputs = batch_inputs(1, 3)
    trained = OPS["", "BatchNormalization"].forward(BATCH, *inputs)
    plain = OPS["", "BatchNormalization"].forward(dataclasses.replace(BATCH, training=False), *inputs)
    assert torch.equal(trained, plain)
    assert torch.equal(inputs[4], torch.ones(3).double())


def test_batch_normalization_over_activations() -> None:
    x, parameters = normal(2, 3, 4), [normal(3, 4, seed=i) ** 2 + np.float32(0.5) for i in range(4)]
    node = Node("BatchNormalization", 7, {"spatial": 0})
    got = OPS["", "BatchNormalization"].forward(node, *map(torch.from_numpy, [x, *parameters]))
    scale, bias, mean, variance = parameters
    want = (x - mean) / np.sqrt(variance + 1e-5) * scale + bias
    assert np.allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


def test_dropout_is_the_identity_unless_trained() -> None:
    x = torch.from_numpy(normal(100, 100))
    node = Node("Dropout", 13, {}, (True, True))
    y, mask = OPS["", "Dropout"].forward(node, x, torch.tensor(0.3))
    assert torch.equal(x, y)
    assert bool(mask.all())
    torch.manual_seed(0)
    y, mask = OPS["", "Dropout"].forward(dataclasses.replace(node, training=True), x, torch.tensor(0.3))
    assert abs(float(mask.float().mean()) - 0.7) < 0.02
    assert torch.allclose(y, torch.where(mask, x / 0.7, torch.zeros(())), rtol=1e-6, atol=0)


def test_dropout_repeats_itself_for_a_seed() -> None:
    node, x = Node("Dropout", 12, {"seed": 3}, training=True), torch.ones(50)
    torch.manual_seed(1)
    first = OPS["", "Dropout"].forward(node, x)
    torch.manual_seed(1)
    assert torch.equal(first, OPS["", "Dropout"].forward(node, x))


def test_lrn_windows_of_even_size() -> None:
    x = normal(1, 7, 2)
    got = OPS["", "LRN"].forward(Node("LRN", 13, {"size": 4, "alpha": 0.5}), torch.from_numpy(x)).numpy()
    for c in range(7):
        squares = (x[:, max(0, c - 1) : min(7, c + 3)] ** 2).sum(1)
        assert np.allclose(got[:, c], x[:, c] / (1 + 0.5 / 4 * squares) ** 0.75, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("type_", "attributes"),
    [("MeanVarianceNormalization", {}), ("LpPool", {"kernel_shape": [2, 2]}), ("LpNormalization", {})],
)
def test_the_gradient_of_a_dead_channel_is_finite(type_, attributes):
    x = torch.randn(2, 3, 4, 4)
    x[:, 1] = 0
    x.requires_grad_()
    y = OPS["", type_].forward(Node(type_, 18, attributes), x)
    (gradient,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), x)
    assert torch.isfinite(gradient).all()
    assert gradient[:, 0].abs().max() > 0
