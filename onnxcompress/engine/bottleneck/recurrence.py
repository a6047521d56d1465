"""Recurrences: what a node sums over inside itself cannot be gated; closed channels are left out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck.gates import Gates
from onnxcompress.engine.channels import Channels


class Recurrence:
    """Weights that a recurrent node sums its own state against: slices of closed channels are zero."""

    def __init__(self, channels: Channels, groups: Sequence[Group], gates: Gates) -> None:
        names = {w.value: name for name, w in channels.model.weights.items()}
        self._parts: dict[str, list[tuple[str, int, Array]]] = {}
        self._gates = gates
        places = [(node.inputs[slot], axis) for node, slot, axis in channels.ground.recurrent]
        weights = {(names[value], axis) for value, axis in places if value in names}
        for group in groups:
            for member in group.members:
                if (member.tensor, member.axis) in weights and member.consumes:
                    part = (group.name, member.axis, member.channel_of)
                    self._parts.setdefault(member.tensor, []).append(part)

    @contextmanager
    def on(self, hooks: dict[str, Any]) -> Iterator[None]:
        """Close them for a while."""
        for name in self._parts:
            hooks[name] = lambda value, name=name: self._apply(name, value)
        try:
            yield
        finally:
            for name in self._parts:
                del hooks[name]

    def _apply(self, name: str, value: torch.Tensor) -> torch.Tensor:
        for group, axis, channel_of in self._parts[name]:
            kept = torch.cat([self._gates[group].kept, torch.ones(1, device=value.device)])
            shape = [len(channel_of) if k == axis else 1 for k in range(value.dim())]
            value = value * kept[torch.from_numpy(channel_of).to(value.device)].reshape(shape)
        return value
