"""Task: the data a method may use, how it is split, and what counts as loss and as success."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from onnxcompress.core.encoding import Array

Feeds = Mapping[str, Array]
"""Input name -> array; the first axis counts examples where the input has a batch axis."""


class Samples(Protocol):
    """Examples read from disk on demand; memory does not grow with their number."""

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def inputs(self, indices: Array) -> Feeds:
        """Return the inputs of these examples, in the model's own types, stacked along the first axis."""
        ...

    def labels(self, indices: Array) -> Array | None:
        """Return the labels of these examples, None where the data has none."""
        ...


@dataclass(frozen=True)
class Task:
    """What a method trains or calibrates on.

    Attributes:
        samples: the examples.
        train: indices that gradients may come from.
        validation: indices that choose the best state; never trained on. In random order, as ``test`` is, so
            that the first so many stand for all.
        test: indices for the before/after accuracy in the report; neither trained on nor chosen by.
            None where the data has no test split: the report then uses ``validation`` and says so.
        labelled: whether labels are there and used.
        loss: ``"ce"``, ``"mse"``, ``"kl"``, ``"l2"`` (distance to the original's outputs) or a callable
            ``(outputs, labels, teacher_outputs) -> scalar``.
        metric: ``"top1"``, ``"mse"``, ``"agreement"`` … or a callable; None: chosen from the loss.
        random: the examples are random numbers (``--random-data``).
        origin: where the data came from, for the report.
        seed: of every random choice made with this task.
        warnings: sentences on the data that the user must see.
        loss_named: whether the user chose the loss.
        decided: outputs that are decisions, or selected by some, made of others: nothing is measured by them
            while methods work (:mod:`onnxcompress.engine.scores`).
        validation_told: what ``validation`` is called where results are measured on it.
    """

    samples: Samples
    train: Array
    validation: Array
    test: Array | None
    labelled: bool
    loss: str | Callable[..., Any]
    metric: str | Callable[..., Any] | None
    random: bool
    origin: str
    seed: int
    warnings: tuple[str, ...] = ()
    loss_named: bool = False
    decided: frozenset[str] = frozenset()
    validation_told: str = "validation"

    @property
    def measured(self) -> tuple[str, Array]:
        """What the examples are called that results are measured on, and their indices."""
        return ("test", self.test) if self.test is not None else (self.validation_told, self.validation)

    @property
    def left_out(self) -> frozenset[str]:
        """Outputs that training does without: those decided, unless labels are for them.

        A function of the user's may ask for any; one that does not says so (``needs_decided``).
        """
        functions = [f for f in (self.loss, self.metric) if callable(f)]
        if any(getattr(function, "needs_decided", True) for function in functions):
            return frozenset()
        return self.decided - {getattr(getattr(self.samples, "targets", None), "output", None)}
