"""What a method is: a frozen dataclass of options with one decision, ``plan``."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import asdict, field
from typing import TYPE_CHECKING, Any, ClassVar

from onnxcompress.core.registry import Registry

# The command line lists every method's options: a method's file must import quickly, so the machinery it
# decides with (torch, onnx_ir) is imported inside `plan`.
if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxcompress.core.model import Model
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task

_LOOKED_AT = 8
"""Examples of each split that tell the data of a run from that of another."""

LONGEST = 1e6
"""Passes over the data, or steps of an LC path, that nobody waits for."""

STEEPEST = 1e6
"""A factor on gradients or weights: float32 overflows in a few steps of it, torch at once far above."""

DEAREST = 1e12
"""A factor on terms of the loss, in whose units it is: with more nothing of the loss is left in float32."""


class Needs(enum.Enum):
    """The least data a method can work with."""

    NOTHING = "nothing"
    INPUTS = "inputs"
    LABELS = "labels"


class Method(ABC):
    """A way to compress. Subclasses are frozen dataclasses; their fields are the method's options.

    Attributes:
        name: as given to ``--method``.
        source: paper and equations.
        needs: the least data it can work with.
        summary: one line for ``onnxcompress list methods``.
        last: it rewrites the graph, so that no method can run after it.
        folds: it stores what a file computes from constants, and tells of it.
        idle: what is said of a model that it finds nothing in.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[Needs]
    summary: ClassVar[str]
    last: ClassVar[bool] = False
    folds: ClassVar[bool] = False
    idle: ClassVar[str] = "the model has no weights this method handles"

    @abstractmethod
    def plan(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        """Decide; the model is not changed. ``task`` is None where no data was given."""

    @property
    def trains(self) -> bool:
        """Whether it trains where there is data, so that a failure afterwards loses much."""
        return False

    def check(self, *, timed: bool) -> None:  # noqa: B027 - most have nothing to say
        """Refuse options that cannot work in a run, before anything is done.

        Args:
            timed: whether latency may be measured.

        Raises:
            UsageError: they cannot.
        """

    def fingerprint(self, model: Model, task: Task) -> dict[str, Any]:
        """Return what a resumed run must have in common with the interrupted one.

        Of methods before this one it is not their options that count but the weights they left.
        """
        return {
            "method": {"name": self.name, **asdict(self)},  # type: ignore[call-overload]
            "model": model.source.sha256,
            "steps": list(model.steps),
            "weights before": model.digest() if model.steps else None,
            "seed": task.seed,
            "examples": [len(task.train), len(task.validation)],
            "labelled": task.labelled,
            "loss": _named(task.loss),
            "metric": _named(task.metric),
            "data": _digest(task),
        }


def _named(chosen: str | Callable[..., Any] | None) -> str | None:
    return (
        chosen if chosen is None or isinstance(chosen, str) else getattr(chosen, "__qualname__", "a function")
    )


def _digest(task: Task) -> str:
    """Return a digest of a few examples as the model takes them, labels included."""
    import hashlib  # noqa: PLC0415

    found = hashlib.sha256()
    for some in (task.train[:_LOOKED_AT], task.validation[:_LOOKED_AT]):
        labels = task.samples.labels(some) if task.labelled else None
        parts = {**task.samples.inputs(some), **({} if labels is None else {"labels": labels})}
        for name, array in parts.items():
            own = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
            found.update(f"{name} {array.dtype} {array.shape}".encode() + own)
    return found.hexdigest()[:16]


def option(default: Any, text: str, **more: Any) -> Any:
    """Return a dataclass field that is an option of the method.

    Args:
        default: its default.
        text: for ``--help``.
        more: ``choices``; ``most``, the largest number that can be meant; ``metavar``; or ``joined``: values
            given one by one are one text with commas.
    """
    return field(default=default, metadata={"help": text, **more})


METHODS: Registry[str, type[Method]] = Registry("onnxcompress.methods", "method")
