"""Augmentation: examples changed while training, and what the original is asked about them.

What is shown to the network is drawn anew for every batch; evaluation sees the examples as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from onnxcompress.engine.graph.values import Value
from onnxcompress.engine.training import shifts
from onnxcompress.engine.training.shifts import Drawn, Shift


@dataclass(frozen=True)
class Augmentation:
    """Shifts and noise.

    Attributes:
        shifts: input name -> shift. The original answers for the shifted example.
        noise: input name -> standard deviation. The original's answer to the example without noise holds.
    """

    shifts: Mapping[str, Shift] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)

    def shift(self, stack: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return the examples shifted, drawn from torch's generator; the same object where none are.

        All pictures of one example are moved alike: what one is beside another is part of what they show.
        """
        moved: dict[str, torch.Tensor] = {}
        drawn: Drawn | None = None
        for name, shift in self.shifts.items():
            if isinstance(value := stack[name], torch.Tensor):
                drawn = shift.draw(len(value), value.device) if drawn is None else drawn
                moved[name] = shift.apply(value, drawn)
        return {**stack, **moved} if moved else stack

    def words(self) -> tuple[str, ...]:
        """Return what is done to the examples, for the report; nothing where nothing is."""
        moved = (f"pictures shown {shifts.words(self.shifts)}",) if self.shifts else ()
        return (*moved, "shown with noise") if self.noise else moved

    def disturb(self, stack: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return the examples with noise, drawn from torch's generator."""
        noisy = {
            n: v + deviation * torch.randn_like(v)
            for n, deviation in self.noise.items()
            if isinstance(v := stack[n], torch.Tensor)
        }
        return {**stack, **noisy}
