"""Labels and the original model together: what an over-trained original still knows beyond the labels.

``(1 − s) · CE(labels) + s · T² · KL(p_T ‖ q_T)`` with p_T, q_T the softmax of the original's and of the
compressed model's scores at temperature T (Hinton, Vinyals, Dean 2015, Distilling the knowledge in a neural
network, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F

from onnxcompress.core.task import Task
from onnxcompress.engine.data.labels import Binary
from onnxcompress.engine.training.losses import classes_second, cross_entropy, two_classes

TEMPERATURE = 2.0
_SMALLEST = 1e-37


@dataclass(frozen=True)
class LabelsAndTeacher:
    """The loss; called with (outputs, labels, the original's outputs) of one batch.

    Attributes:
        output: the class scores that the labels are for; None: the first output.
        share: s, of the teacher.
        temperature: T.
        binary: what the output is where it is one number for two classes.
        needs_decided: whether it looks at outputs that are decisions.
    """

    needs_decided: ClassVar[bool] = False

    output: str | None
    share: float
    temperature: float = TEMPERATURE
    binary: Binary | None = None

    @property
    def __name__(self) -> str:
        """How the report calls it."""
        return f"{1 - self.share:g}*ce+{self.share:g}*kl at temperature {self.temperature:g}"

    def __call__(
        self, outputs: Mapping[str, torch.Tensor], labels: torch.Tensor, teacher: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the mean loss of the batch."""
        name = self.output if self.output is not None else next(iter(outputs))
        scores, wanted = (two_classes(side[name], self.binary) for side in (outputs, teacher))
        probabilities = _are_probabilities(classes_second(wanted, labels.shape[1:]))
        hard = cross_entropy(scores, labels, probabilities)
        student = self._soft(classes_second(scores, labels.shape[1:]), probabilities)
        target = self._soft(classes_second(wanted, labels.shape[1:]), probabilities)
        count = student.numel() / student.shape[1]
        soft = F.kl_div(student, target, reduction="sum", log_target=True) / count
        return (1 - self.share) * hard + self.share * self.temperature**2 * soft

    def _soft(self, scores: torch.Tensor, probabilities: bool) -> torch.Tensor:
        """Return log-probabilities at the temperature, classes along axis 1."""
        logits = scores.clamp_min(_SMALLEST).log() if probabilities else scores
        return F.log_softmax(logits / self.temperature, dim=1)


def with_teacher(task: Task, share: float) -> Task:
    """Return the task with the original as second teacher; unchanged unless its loss is cross-entropy."""
    if not task.labelled or task.loss != "ce" or share == 0:
        return task
    target = getattr(task.samples, "targets", None)
    if target is None:
        return replace(task, loss=LabelsAndTeacher(None, share))
    return replace(task, loss=LabelsAndTeacher(target.output, share, binary=target.binary))


def _are_probabilities(scores: torch.Tensor) -> bool:
    """Whether every row along axis 1 is non-negative and sums to 1."""
    if scores.shape[1] < 2 or bool((scores < 0).any()):
        return False
    return bool(((scores.sum(1) - 1).abs() < 1e-3).all())
