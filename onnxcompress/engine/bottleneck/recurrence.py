"""Recurrences: what a node sums over inside itself cannot be gated; closed channels are left out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck.gates import Gates
from onnxcompress.engine.channels import Channels


class Recurrence:
    """Weights that a recurrent node sums its own state against: slices of closed channels are zero."""

    def __init__(self, channels: Channels, groups: Sequence[Group], gates: Gates) -> None:
        self._parts: dict[str, list[tuple[str, int, Array]]] = {}
        self._gates = gates
        gated = {group.name for group in groups}
        # The value that the node reads: the weight may be stored turned, or in another type.
        places = {(node.inputs[slot], axis): None for node, slot, axis in channels.ground.recurrent}
        for value, axis in places:
            along = None if value is None else channels.channels_along.get((value, axis))
            if value is None or along is None:
                continue
            start = 0
            for group in channels.groups:
                own = np.where((along >= start) & (along < start + group.size), along - start, -1)
                if group.name in gated and (own >= 0).any():
                    self._parts.setdefault(value.name or "", []).append((group.name, axis, own))
                start += group.size

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
