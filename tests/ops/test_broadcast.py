"""The broadcasting of operator sets before 7, which neither onnxruntime nor the reference runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from onnxcompress.ops._base import OPS, Node
from onnxcompress.ops._examples import normal

FUNCTIONS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


@pytest.mark.parametrize("type_", sorted(FUNCTIONS))
@pytest.mark.parametrize(
    ("shape", "attributes", "aligned"),
    [
        ((3,), {"broadcast": 1, "axis": 1}, (3, 1)),
        ((3, 4), {"broadcast": 1, "axis": 1}, (3, 4)),
        ((2,), {"broadcast": 1, "axis": 0}, (2, 1, 1)),
        ((2, 3), {"broadcast": 1, "axis": -3}, (2, 3, 1)),
        ((4,), {"broadcast": 1}, (4,)),
        ((), {"broadcast": 1}, ()),
    ],
)
def test_axis_says_where_the_second_shape_starts(
    type_: str, shape: tuple[int, ...], attributes: dict[str, Any], aligned: tuple[int, ...]
) -> None:
    x, y = normal(2, 3, 4), normal(*shape, seed=1) + np.float32(3)
    got = OPS["", type_].forward(Node(type_, 6, attributes), torch.from_numpy(x), torch.tensor(y))
    want = FUNCTIONS[type_](x, y.reshape(aligned))
    assert np.allclose(got.numpy(), want, rtol=1e-6, atol=0)


def test_from_version_7_on_axis_means_nothing() -> None:
    x, y = torch.zeros(2, 3, 3), torch.arange(3.0)
    old = OPS["", "Add"].forward(Node("Add", 6, {"broadcast": 1, "axis": 1}), x, y)
    new = OPS["", "Add"].forward(Node("Add", 7, {"broadcast": 1, "axis": 1}), x, y)
    assert torch.equal(new[0, 0], y)
    assert torch.equal(old[0, :, 0], y)
