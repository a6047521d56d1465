"""The state of a training run, so that it can be written down and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from onnxcompress.core.encoding import Array

_PLAIN = ("number", "step", "seen", "loss", "last_loss", "factor", "halvings", "stopped")


@dataclass
class RunState:
    """A run under way.

    Attributes:
        number: which run of its trainer.
        step: steps made.
        seen: examples since the start of the epoch.
        loss: sum of their losses.
        last_loss: mean loss of the last whole epoch.
        factor: what the learning rate was multiplied by after losses that were not finite.
        halvings: how often.
        stopped: why the run ended, None while it goes on.
        snapshot: the state at the start of the epoch.
        random: torch's generator between two steps; None: seeded at the start of the epoch.
        optimizer: state of the optimiser read from a checkpoint, one dict a parameter.
    """

    number: int
    step: int = 0
    seen: int = 0
    loss: float = 0.0
    last_loss: float = float("nan")
    factor: float = 1.0
    halvings: int = 0
    stopped: Literal["diverged"] | None = None
    snapshot: list[torch.Tensor] | None = None
    random: torch.Tensor | None = None
    optimizer: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Return the plain values; floats keep all their bits as hexadecimal text."""
        found = {name: getattr(self, name) for name in _PLAIN}
        return {n: v.hex() if isinstance(v, float) else v for n, v in found.items()}

    def arrays(self) -> dict[str, Array]:
        """Return the tensors by name."""
        arrays = {}
        for k, tensor in enumerate(self.snapshot or ()):
            arrays[f"snapshot/{k}"] = tensor.cpu().numpy()
        if self.random is not None:
            arrays["random"] = self.random.numpy()
        return arrays

    @classmethod
    def read(cls, values: Mapping[str, Any], arrays: Mapping[str, Array], device: torch.device) -> RunState:
        """Return the state that ``values`` and ``arrays`` were made of."""
        plain: dict[str, Any] = {
            n: float.fromhex(v) if isinstance(v, str) and n != "stopped" else v for n, v in values.items()
        }
        state = cls(**plain)
        count = sum(key.startswith("snapshot/") for key in arrays)
        if count:
            kept = (arrays[f"snapshot/{k}"] for k in range(count))
            state.snapshot = [torch.from_numpy(array.copy()).to(device) for array in kept]
        if "random" in arrays:
            state.random = torch.from_numpy(arrays["random"].copy())
        for key, array in arrays.items():
            if key.startswith("optimizer/"):
                _, index, name = key.split("/")
                tensor = torch.from_numpy(np.array(array))
                if name != "step":  # torch counts steps on the CPU, wherever the weights are
                    tensor = tensor.to(device)
                state.optimizer.setdefault(int(index), {})[name] = tensor
        return state


def optimizer_arrays(optimizer: torch.optim.Optimizer) -> dict[str, Array]:
    """Return the optimiser's state by ``optimizer/<parameter>/<name>``."""
    return {
        f"optimizer/{index}/{name}": value.detach().cpu().numpy()
        for index, held in optimizer.state_dict()["state"].items()
        for name, value in held.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: RunState) -> None:
    """Give an optimiser, just made, the state read from a checkpoint."""
    whole = optimizer.state_dict()
    whole["state"] = {index: dict(held) for index, held in state.optimizer.items()}
    optimizer.load_state_dict(whole)
    state.optimizer = {}
