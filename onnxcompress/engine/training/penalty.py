"""Penalties that a method adds to the loss in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Penalty(Protocol):
    """A term of the loss that knows its own gradient, which is faster than automatic differentiation."""

    def value(self) -> torch.Tensor:
        """Return the term, a scalar; called without gradient."""
        ...

    def add_gradient(self) -> None:
        """Add the term's gradient to ``.grad`` of the parameters, in place."""
        ...


class QuadraticPenalty:
    """``μ/2 · Σ ‖w − t‖²`` over several parameters: the penalty of the LC algorithm's L step.

    With t = Δ(Θ) + λ/μ this is eq. 8 of Carreira-Perpiñán (2017).

    Args:
        parameters: the weights w.
        targets: t, one for each parameter, of its shape; not copied, so they may be changed between steps.
        mu: the penalty parameter μ.
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], targets: Sequence[torch.Tensor], mu: float
    ) -> None:
        if len(parameters) != len(targets) or any(
            p.shape != t.shape for p, t in zip(parameters, targets, strict=False)
        ):
            raise ValueError("parameters and targets differ in number or shape")
        self._parameters, self._targets, self.mu = list(parameters), list(targets), mu

    @torch.no_grad()
    def value(self) -> torch.Tensor:
        """Return the penalty."""
        if not self._parameters:
            return torch.zeros(())
        differences = self._differences()
        norms = torch.stack(torch._foreach_norm(differences))
        return norms.square().sum() * (self.mu / 2)

    def _differences(self) -> list[torch.Tensor]:
        weights: list[torch.Tensor] = list(self._parameters)
        return list(torch._foreach_sub(weights, self._targets))

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add ``μ (w − t)`` to the gradients."""
        if not self._parameters or self.mu == 0:
            return
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        differences = self._differences()
        torch._foreach_add_(gradients, differences, alpha=self.mu)
