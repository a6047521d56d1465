"""Keeping: the state of training under a bottleneck in a checkpoint, in parts that know their own state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck.decision import Decision
from onnxcompress.engine.training.checkpoint import Checkpoint

Phase = Literal["gated", "decided", "recovering", "done"]
"""With gates; between decision and recovery; in it; after it."""

SAVE_EVERY_S = 30.0
"""Seconds between two states while training."""

State = tuple[dict[str, Array], dict[str, Any]]
"""Arrays by name, and plain values (JSON)."""


class Part(Protocol):
    """Something whose state can be taken and given back."""

    def state(self) -> State:
        """Return the state."""
        ...

    def restore(self, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> None:
        """Take up a state."""
        ...


class Keeper:
    """Writes and reads the checkpoint of one run.

    Args:
        checkpoint: where; None: nothing is kept.
        resume: whether a state found there is taken up.
    """

    def __init__(self, checkpoint: Checkpoint | None, *, resume: bool) -> None:
        self._checkpoint = checkpoint
        self._found: dict[str, State] = {}
        found = checkpoint.load() if checkpoint is not None and resume else None
        if found is not None:
            arrays, values = found
            self._found = {part: ({}, own) for part, own in values.items()}
            for key, array in arrays.items():
                part, _, name = key.partition("/")
                self._found[part][0][name] = array

    @property
    def active(self) -> bool:
        """Whether anything is kept."""
        return self._checkpoint is not None

    def values(self, part: str) -> Mapping[str, Any] | None:
        """Return the plain values of a part of the state found, None where there is none."""
        found = self._found.get(part)
        return None if found is None else found[1]

    def arrays(self, part: str) -> dict[str, Array]:
        """Return the arrays of a part of the state found."""
        return self._found[part][0]

    def give(self, name: str, part: Part) -> None:
        """Let a part take up its state, where one was found for it; only once."""
        found = self._found.pop(name, None)
        if found is not None:
            part.restore(*found)

    def save(self, parts: Mapping[str, State]) -> None:
        """Write the state of all parts."""
        if self._checkpoint is not None:
            arrays = {f"{part}/{name}": a for part, (own, _) in parts.items() for name, a in own.items()}
            self._checkpoint.save(arrays, {part: values for part, (_, values) in parts.items()})


class OfModule:
    """The state of a module as a part."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def state(self) -> State:
        """Return all parameters and buffers."""
        return {name: t.detach().cpu().numpy() for name, t in self._module.state_dict().items()}, {}

    def restore(self, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> None:
        """Set them."""
        with torch.no_grad():
            for name, tensor in self._module.state_dict().items():
                tensor.copy_(torch.from_numpy(np.array(arrays[name])))


def restore_optimizer(optimizer: torch.optim.Optimizer, arrays: Mapping[str, Array]) -> None:
    """Give an optimiser, just made, what ``optimizer_arrays`` returned."""
    whole = optimizer.state_dict()
    whole["state"] = {}
    for key, array in arrays.items():
        _, index, name = key.split("/")
        whole["state"].setdefault(int(index), {})[name] = torch.from_numpy(np.array(array))
    optimizer.load_state_dict(whole)


def decision_state(decision: Decision, alphas: Mapping[str, Array], stopped: str) -> State:
    """Return a decision, what it was made by, and why the training before it stopped, as a part."""
    arrays = {f"alpha/{name}": a for name, a in alphas.items()}
    arrays |= {f"keep/{name}": mask for name, mask in decision.keep.items()}
    values = {"threshold": decision.threshold, "share": decision.share, "by": decision.by}
    return arrays, {**values, "stopped": stopped}


def read_decision(
    arrays: Mapping[str, Array], values: Mapping[str, Any]
) -> tuple[Decision, dict[str, Array], str]:
    """Return what :func:`decision_state` was made of."""
    parts: dict[str, dict[str, Array]] = {"alpha": {}, "keep": {}}
    for key, array in arrays.items():
        part, _, name = key.partition("/")
        parts[part][name] = array
    decision = Decision(parts["keep"], float(values["threshold"]), values["share"], values["by"])
    return decision, parts["alpha"], str(values["stopped"])
