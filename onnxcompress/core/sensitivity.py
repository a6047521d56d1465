"""Sensitivity: how far compressing each layer alone moves the outputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerDamage:
    """Damage of compressing one layer, and no other.

    ``relative_l2`` is ‖a − b‖₂ / ‖a‖₂ over all examples, of the output where it is largest; ``low`` to
    ``high`` its 95 % bootstrap interval over examples. ``changed`` says what compressing did to the layer, in
    words; ``fragile`` that it is advised to leave the layer alone.
    """

    name: str
    relative_l2: float
    low: float
    high: float
    changed: str
    fragile: bool


@dataclass(frozen=True)
class Sensitivity:
    """Damage of every layer, the most fragile first, for one method with its options.

    ``together`` is the damage of compressing all of them; ``threshold`` the damage above which a layer counts
    as fragile.
    """

    method: str
    examples: int
    inputs: str
    random_inputs: bool
    layers: tuple[LayerDamage, ...]
    together: float | None
    threshold: float
