"""Losses: towards labels, towards the original model's outputs (the teacher), or both.

==========  ===================================================================================
``ce``      cross-entropy −log p(label); of an output that already holds probabilities, −log of it
``mse``     mean square of output − label
``kl``      Σ_c t_c (log t_c − log s_c), t the teacher's class probabilities, s the student's; scores that
            are large in the original are divided by a temperature first (see ``_temperature``)
``l2``      mean square of output − teacher's output, divided by the variance of the teacher's output:
            the share of the variance that is lost, whatever the scale; mean over outputs
==========  ===================================================================================

All are means over examples. Terms can be added, with factors: ``"0.5*ce+kl"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from onnxcompress.core.errors import UsageError
from onnxcompress.engine.data.labels import Binary

Outputs = Mapping[str, torch.Tensor]
LossFunction = Callable[[Outputs, "torch.Tensor | None", "Outputs | None"], torch.Tensor]

CLASSES_LOSS = "kl+0.1*l2"
"""Loss without labels where an output looks like scores of classes: kl weighs what decides between them, and
some l2 keeps outputs in place that look so and are none, of which kl does not see a common shift."""

BOUND = 0.3
"""Share of their variance that outputs without labels lose before they pull less: one that is lost, perhaps
because it hardly varies, must not outshout the labels."""

_SMALLEST = 1e-37
"""Probabilities are not taken smaller than this before the logarithm; its inverse is still a float32."""


@dataclass(frozen=True)
class OutputFacts:
    """What a loss has to know of the outputs, measured on the original model.

    Attributes:
        variance: output name -> variance of the original's output; only outputs a loss can be taken of.
        varying: output name -> the part of it that is not the same for all examples, place by place.
        probabilities: outputs that hold class probabilities already.
        labelled: the output that the labels are for, None without labels.
        binary: what that output is where it is one number for two classes.
    """

    variance: Mapping[str, float]
    probabilities: frozenset[str]
    labelled: str | None
    binary: Binary | None = None
    varying: Mapping[str, float] = field(default_factory=dict)

    @property
    def divisors(self) -> dict[str, float]:
        """What mean square errors are divided by.

        What is constant would weigh outputs wrongly: the grid that boxes are decoded with says nothing of
        the input, and errors of the boxes would count for next to nothing beside it. A single output is
        weighed against none.
        """
        if len(self.variance) < 2 and len(self.varying) < 2:
            return dict(self.variance)
        return {name: self.varying.get(name) or size for name, size in self.variance.items()}

    def others(self) -> OutputFacts:
        """Return the facts of the outputs that the labels say nothing of."""
        rest = {name: size for name, size in self.variance.items() if name != self.labelled}
        return OutputFacts(rest, self.probabilities - {self.labelled}, None, varying=self.varying)


@dataclass(frozen=True)
class Loss:
    """A loss to minimise.

    Attributes:
        name: for reports.
        needs_teacher: whether it compares with the original model's outputs.
        needs_labels: whether it compares with labels.
        function: ``(outputs, labels, teacher outputs) -> scalar``.
    """

    name: str
    needs_teacher: bool
    needs_labels: bool
    function: LossFunction

    def __call__(
        self, outputs: Outputs, labels: torch.Tensor | None, teacher: Outputs | None
    ) -> torch.Tensor:
        """Return the mean loss of these examples."""
        return self.function(outputs, labels, teacher)


def make_loss(loss: str | Callable[..., Any], facts: OutputFacts, labelled: bool) -> Loss:
    """Return the loss that a task names; ``loss`` is checked already."""
    if not isinstance(loss, str):
        return Loss(getattr(loss, "__name__", "own function"), True, labelled, loss)
    terms: list[tuple[float, str, LossFunction]] = []
    for term in loss.split("+"):
        factor, _, name = term.rpartition("*")
        terms.append((float(factor or 1), name.strip(), _TERMS[name.strip()](facts)))
    names = {name for _, name, _ in terms}

    def total(outputs: Outputs, labels: torch.Tensor | None, teacher: Outputs | None) -> torch.Tensor:
        return sum(
            (function(outputs, labels, teacher) * factor for factor, _, function in terms[1:]),
            start=terms[0][2](outputs, labels, teacher) * terms[0][0],
        )

    single = terms[0][2] if len(terms) == 1 and terms[0][0] == 1 else total
    return Loss(loss, bool(names & {"kl", "l2"}), bool(names & {"ce", "mse"}), single)


def with_others(loss: Loss, facts: OutputFacts) -> Loss:
    """Return the loss with ``l2`` for the outputs that labels say nothing of, so that they are not lost."""
    others = facts.others()
    if facts.labelled is None or not others.variance:
        return loss
    rest = _l2(others, bound=BOUND)

    def total(outputs: Outputs, labels: torch.Tensor | None, teacher: Outputs | None) -> torch.Tensor:
        return loss(outputs, labels, teacher) + rest(outputs, labels, teacher)

    names = ", ".join(f"'{name}'" for name in others.variance)
    return Loss(f"{loss.name}+l2 of {names}", True, loss.needs_labels, total)


def two_classes(scores: torch.Tensor, binary: Binary | None) -> torch.Tensor:
    """Return scores, or probabilities, of two classes (N 2) of one number an example; others as they are."""
    if binary is None:
        return scores
    one = scores.reshape(len(scores))
    return torch.stack([torch.zeros_like(one) if binary == "logit" else 1 - one, one], dim=1)


def cross_entropy(scores: torch.Tensor, labels: torch.Tensor, probabilities: bool) -> torch.Tensor:
    """Return the mean of −log p(label); ``scores`` is N C, N C … or N … C, ``labels`` N or N …."""
    scores = classes_second(scores, labels.shape[1:])
    if probabilities:
        return F.nll_loss(scores.clamp_min(_SMALLEST).log(), labels)
    return F.cross_entropy(scores, labels)


def classes_second(scores: torch.Tensor, label: Sequence[int]) -> torch.Tensor:
    """Return scores with the class axis second, for labels whose examples have shape ``label``."""
    if not label:
        return scores.reshape(len(scores), -1)
    if tuple(scores.shape[2:]) == tuple(label):
        return scores
    return scores.movedim(-1, 1)


def _ce(facts: OutputFacts) -> LossFunction:
    name = facts.labelled
    assert name is not None
    probabilities = name in facts.probabilities or facts.binary == "probability"

    def loss(outputs: Outputs, labels: torch.Tensor | None, teacher: Outputs | None) -> torch.Tensor:
        assert labels is not None
        return cross_entropy(two_classes(outputs[name], facts.binary), labels, probabilities)

    return loss


def _mse(facts: OutputFacts) -> LossFunction:
    name = facts.labelled
    assert name is not None

    def loss(outputs: Outputs, labels: torch.Tensor | None, teacher: Outputs | None) -> torch.Tensor:
        assert labels is not None
        return F.mse_loss(outputs[name].reshape(labels.shape), labels.to(outputs[name].dtype))

    return loss


def class_output_names(facts: OutputFacts, outputs: Outputs) -> list[str]:
    """Return the outputs that look like class scores: N C with C ≥ 2, axes of length 1 aside."""
    names = []
    for name in facts.variance:
        sizes = [d for d in outputs[name].shape[1:] if d != 1]
        if len(sizes) == 1:
            names.append(name)
    return names


def _log_probabilities(scores: torch.Tensor, probabilities: bool) -> torch.Tensor:
    return scores.clamp_min(_SMALLEST).log() if probabilities else F.log_softmax(scores, dim=-1)


_USUAL_DEVIATION = 5.0
"""Scores of trained classifiers rarely deviate more than this from their mean."""


def _temperature(facts: OutputFacts, name: str) -> float:
    """Return what scores are divided by before the softmax (Hinton et al. 2015, eq. 1).

    Scores in the thousands (inputs of 0 to 255, nothing normalised) say with certainty what is right: a
    student that gets it wrong then learns to be small rather than to be right, and loses the outputs' scale.
    """
    return max(1.0, math.sqrt(facts.variance[name]) / _USUAL_DEVIATION)


def _kl(facts: OutputFacts) -> LossFunction:
    def loss(outputs: Outputs, labels: torch.Tensor | None, teacher: Outputs | None) -> torch.Tensor:
        assert teacher is not None
        names = class_output_names(facts, outputs) or list(facts.variance)
        if all(math.prod(outputs[name].shape[1:]) < 2 for name in names):
            why = "every output is one number, of which the softmax is always 1"
            raise UsageError("loss 'kl' needs the scores of several classes", why=why, fix="use l2")
        total = torch.zeros((), device=outputs[names[0]].device)
        for name in names:
            width = outputs[name].shape[-1] if outputs[name].ndim > 1 and outputs[name].shape[-1] > 1 else -1
            rows = outputs[name].reshape(len(outputs[name]), -1) if width < 0 else outputs[name]
            wanted = teacher[name].reshape(rows.shape)
            certain = name in facts.probabilities
            flat = rows.reshape(-1, rows.shape[-1])
            heat = 1.0 if certain else _temperature(facts, name)
            student = _log_probabilities(flat / heat, certain)
            target = _log_probabilities(wanted.reshape(flat.shape) / heat, certain)
            total = total + F.kl_div(student, target, reduction="batchmean", log_target=True)
        return total / len(names)

    return loss


def _l2(facts: OutputFacts, bound: float = math.inf) -> LossFunction:
    """Return the share of the variance that is lost; beyond ``bound`` it grows with its logarithm only."""
    count = len(facts.variance)
    weights = {name: 1.0 / (divisor * count) for name, divisor in facts.divisors.items()}

    def loss(outputs: Outputs, labels: torch.Tensor | None, teacher: Outputs | None) -> torch.Tensor:
        assert teacher is not None
        terms = [F.mse_loss(outputs[name], teacher[name]) * weight for name, weight in weights.items()]
        if bound < math.inf:
            terms = [bound / count * torch.log1p(term * count / bound) for term in terms]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum()

    return loss


_TERMS: dict[str, Callable[[OutputFacts], LossFunction]] = {"ce": _ce, "mse": _mse, "kl": _kl, "l2": _l2}
