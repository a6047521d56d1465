"""Unsigned integers of 16 to 64 bits, for which torch has storage but no arithmetic."""

from __future__ import annotations

import numpy as np

from onnxcompress.ops._torch import Tensor, torch

_FUNCTIONS = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.floor_divide,
    "Mod": np.remainder,
    "Max": np.maximum,
    "Min": np.minimum,
    "Sum": np.add,
}


def is_bare(x: Tensor) -> bool:
    """Return whether torch cannot calculate with the type of ``x``."""
    return x.dtype in (torch.uint16, torch.uint32, torch.uint64)


def calculated(op_type: str, x: Tensor, y: Tensor) -> Tensor:
    """Return the result of an operator of two tensors, computed by NumPy on the host."""
    result = _FUNCTIONS[op_type](x.cpu().numpy(), y.cpu().numpy())
    return torch.from_numpy(np.asarray(result)).to(x.device)
