"""What training under a bottleneck is asked for, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.core.resources import Resources
from onnxcompress.core.run import Training
from onnxcompress.core.task import Task
from onnxcompress.engine.bottleneck.goals import Measures
from onnxcompress.engine.channels import Channels


@dataclass(frozen=True)
class Wishes:
    """What was asked for.

    Attributes:
        gamma: γ; with a target, where steering starts.
        epochs: passes over the training split with gates; None: by the number of examples.
        after: passes without, after the decision; None: as many.
        lr: learning rate of the weights.
        gate_lr: of the gates; None: by the number of steps.
        weight_decay: factor of the ℓ2 penalty on weights.
        batch_size: None: the trainer's choice.
        warm_up: part of the gated training in which γ grows from 0.
        threshold: of α.
        normalise: lend BatchNormalization to layers without.
        shift: show pictures shifted.
        farthest: most pixels of a shift; None: as far as the original hardly notices.
        round_to: block of widths.
        information: estimate along training what the gates let through.
    """

    gamma: float
    epochs: float | None
    after: float | None
    lr: float
    gate_lr: float | None = None
    weight_decay: float = 0.0
    batch_size: int | None = None
    warm_up: float = 0.1
    threshold: float = 1.0
    normalise: bool = False
    shift: bool = False
    farthest: float | None = None
    round_to: int = 1
    information: bool = False


@dataclass(frozen=True)
class Job:
    """What is to be gated, and with what.

    Attributes:
        channels: the analysed model.
        groups: those to gate.
        weights: group name -> w_i of γ_i = γ · w_i.
        trained: weights that change.
        task: the data.
        resources: device, time limit, progress, the teacher.
        wishes: options.
        measures: how to tell whether a cut meets the target; None: γ alone decides.
        fingerprint: what a resumed run must have in common with the interrupted one.
    """

    channels: Channels
    groups: tuple[Group, ...]
    weights: Mapping[str, float]
    trained: Sequence[str]
    task: Task
    resources: Resources
    wishes: Wishes
    measures: Measures | None = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pressed:
    """What came of it: masks, weights with μ folded in, the path, sentences the user must see."""

    keep: Mapping[str, Array]
    arrays: Mapping[str, Array]
    training: Training
    warnings: tuple[str, ...] = field(default=())
