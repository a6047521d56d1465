"""The bottleneck's pressure: the information term of the loss, and the gates' own optimiser.

Eq. 10 of Dai et al. (2018) is ``Σ_i γ_i Σ_j log(1 + μ_ij²/σ_ij²) + L · E[−log q(y|h_L)]``, L the number of
gated groups. Here both sides are divided by L, so that the task's loss keeps its size whatever the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck.gates import Gates
from onnxcompress.engine.bottleneck.keeping import State, restore_optimizer
from onnxcompress.engine.training.state import optimizer_arrays

MOST_MEAN_LR = 0.01
"""μ multiplies weights: it cannot be hurried as log σ² can."""

TRAVEL = 40.0
"""Learning rate of log σ² times steps, of which there are many: a part of them has to lead from −9 to 0."""

CALM_LR = 0.05
"""Learning rate of log σ² in a shorter training: one at which the loss still has a say in which gates close.

Steps of Adam have one size however small the gradient, and where they are large all gates close alike before
the loss has risen, and noise that grows from layer to layer drowns a deep network.
"""

LEAST_TRAVEL, MOST_LR = 10.0, 0.3
"""But in the shortest the way has to be made nevertheless, as far as steps of this size lead."""


def gate_rate(steps: int, lr: float) -> float:
    """Return the learning rate of log σ² (Adam).

    Args:
        steps: of the training with gates.
        lr: learning rate of the weights, which it is not below.
    """
    rate = min(TRAVEL / steps, max(CALM_LR, LEAST_TRAVEL / steps))
    return min(MOST_LR, max(lr, rate))


class Pressure:
    """A penalty of the trainer that also moves the gates, each step after the weights' gradients are known.

    Gates need a learning rate of their own: log σ² has to travel from −9 to about 0 before a channel is gone.

    Args:
        gates: the gates.
        weights: group name -> w_i, which makes γ_i = γ · w_i.
        gamma: γ.
        lr: learning rate of log σ² (Adam), and of μ up to ``MOST_MEAN_LR``.
        others: further parameters that are trained along, with ``others_lr``.
        others_lr: their learning rate.
        warm_up: steps in which γ grows from 0.
        each_step: called with the number of steps made, after each.
    """

    def __init__(
        self,
        gates: Gates,
        weights: Mapping[str, float],
        gamma: float,
        *,
        lr: float,
        others: Sequence[nn.Parameter] = (),
        others_lr: float = 1e-3,
        warm_up: int = 0,
        each_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._gates, self._weights, self.gamma = gates, dict(weights), gamma
        self._warm_up, self._each_step = warm_up, each_step
        held = [gates[group.name] for group in gates.groups]
        chosen = [
            {"params": [gate.log_variance for gate in held], "lr": lr},
            {"params": [gate.mean for gate in held if gate.mean.requires_grad], "lr": min(lr, MOST_MEAN_LR)},
        ]
        if others:
            chosen.append({"params": list(others), "lr": others_lr})
        self._optimizer = torch.optim.Adam(chosen, foreach=True)
        self.steps = 0

    def state(self) -> State:
        """Return the state for a checkpoint."""
        return optimizer_arrays(self._optimizer), {"steps": self.steps, "gamma": self.gamma}

    def restore(self, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> None:
        """Take up a state."""
        restore_optimizer(self._optimizer, arrays)
        self.steps, self.gamma = int(values["steps"]), float(values["gamma"])

    def scale(self) -> float:
        """Return γ/L as it is now, with the warm-up."""
        start = min(1.0, (self.steps + 1) / self._warm_up) if self._warm_up else 1.0
        return self.gamma * start / max(len(self._gates.groups), 1)

    @torch.no_grad()
    def value(self) -> torch.Tensor:
        """Return the information term, divided by L."""
        total = torch.zeros(())
        for group in self._gates.groups:
            information = nn.functional.softplus(self._gates[group.name].log_alpha()).sum()
            total = total + self._weights[group.name] * information.cpu()
        return total * self.scale()

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add the term's gradient to the gates' and make their step.

        ∂/∂μ log(1 + μ²/σ²) = 2 μ/(μ² + σ²) and ∂/∂ log σ² = −μ²/(μ² + σ²).
        """
        for group in self._gates.groups:
            gate = self._gates[group.name]
            factor = self.scale() * self._weights[group.name]
            square, variance = gate.mean.square(), gate.log_variance.exp()
            total = square + variance
            if gate.mean.requires_grad:
                _add(gate.mean, factor * 2 * gate.mean / total)
            _add(gate.log_variance, -factor * square / total)
        # A loss that is no number is the trainer's to handle; the gates must not catch it.
        gradients = [p.grad for g in self._optimizer.param_groups for p in g["params"] if p.grad is not None]
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self._each_step(self.steps)


def _add(parameter: nn.Parameter, gradient: torch.Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


class Along:
    """A penalty that adds nothing and trains further parameters along (Adam)."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], lr: float) -> None:
        self._optimizer = torch.optim.Adam(parameters, lr) if parameters else None

    def state(self) -> State:
        """Return the state for a checkpoint."""
        return {} if self._optimizer is None else optimizer_arrays(self._optimizer), {}

    def restore(self, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> None:
        """Take up a state."""
        if self._optimizer is not None:
            restore_optimizer(self._optimizer, arrays)

    def set_rate(self, lr: float) -> None:
        """Set the learning rate."""
        if self._optimizer is not None:
            self._optimizer.param_groups[0]["lr"] = lr

    def value(self) -> torch.Tensor:
        """Return 0."""
        return torch.zeros(())

    def add_gradient(self) -> None:
        """Make the step of the further parameters."""
        if self._optimizer is None:
            return
        held = self._optimizer.param_groups[0]["params"]
        if all(bool(torch.isfinite(p.grad).all()) for p in held if p.grad is not None):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
