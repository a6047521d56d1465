"""finetune: the weights trained on, to recover what compression has cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxcompress.core.errors import UsageError
from onnxcompress.methods._base import LONGEST, METHODS, STEEPEST, Method, Needs, option

if TYPE_CHECKING:
    from onnxcompress.core.model import Model
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.refusal import Refusal
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task


@METHODS.register("finetune")
@dataclass(frozen=True)
class Finetune(Method):
    """Training of all weights, towards labels or the outputs of the original, uncut model.

    Weights that are stored encoded keep their form: codebook entries, scales and non-zero weights are
    trained, codes and zeros stay. Forms without such numbers stay as they are, and the report says so.

    Raises:
        UsageError: an option is out of range.
    """

    name: ClassVar[str] = "finetune"
    source: ClassVar[str] = (
        "Han et al. (2015), Learning both weights and connections, section 3; without labels "
        "Hinton et al. (2015), Distilling the knowledge in a neural network"
    )
    needs: ClassVar[Needs] = Needs.INPUTS
    summary: ClassVar[str] = "trains the weights on, towards labels or the original model's outputs"

    epochs: float | None = option(
        None, "Passes over the training data. [default: 5, more over few examples]", most=LONGEST
    )
    lr: float | None = option(
        None, "Learning rate of the first epoch. [default: found by short runs]", most=STEEPEST
    )
    batch_size: int | None = option(None, "Examples of one step. [default: 64, fewer of large ones]")
    teacher: float = option(
        0.5,
        "Share of the loss, 0 to 1, that pulls towards the original's outputs where there are class labels.",
    )
    statistics: bool = option(True, "Estimate the statistics of BatchNormalization anew and train with them.")
    augment: bool = option(True, "Show pictures shifted as well, as far as the original hardly notices.")
    include: tuple[str, ...] = option((), "Train only layers whose weight's, or node's, name matches.")
    exclude: tuple[str, ...] = option((), "Leave layers alone whose weight's, or node's, name matches.")

    @property
    def trains(self) -> bool:
        """Whether it trains where there is data."""
        return True

    def __post_init__(self) -> None:
        for name in ("epochs", "lr", "batch_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name.replace('_', '-')} must be positive", why=f"found {value}")
        if not 0 <= self.teacher <= 1:
            raise UsageError("--teacher must be 0 to 1", why=f"found {self.teacher}")
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))

    def plan(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        """Train; raises UsageError where a glob matches nothing, or the device is not there."""
        from onnxcompress.core.plan import Plan  # noqa: PLC0415
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.encodings.dense import Dense  # noqa: PLC0415
        from onnxcompress.engine.finetuning import Job, finetune  # noqa: PLC0415
        from onnxcompress.engine.training.distillation import with_teacher  # noqa: PLC0415
        from onnxcompress.engine.training.shifts import may_shift  # noqa: PLC0415

        if task is None:
            raise UsageError("method 'finetune' needs data", fix="give inputs with --data")
        names, refusals = self._choose(model)
        encodings = {n: model.encodings[n] for n in names if not _dense(model, n)}
        job = Job(
            model,
            [name for name in names if name not in encodings],
            encodings,
            with_teacher(task, self.teacher),
            resources,
            self.epochs,
            self.lr,
            self.batch_size,
            self.statistics,
            self.augment and may_shift(task),
            self.fingerprint(model, task),
        )
        found = finetune(job)
        values = {n: Dense(a) for n, a in found.arrays.items()}
        if not (found.arrays or found.encodings):
            refusals += tuple(Refusal(name, _why_not(model, task, resources)) for name in names)
        return Plan(
            found.encodings, values, refusals=refusals, warnings=found.warnings, training=found.training
        )

    def _choose(self, model: Model) -> tuple[tuple[str, ...], tuple[Refusal, ...]]:
        """Return the weights to train, and why other layers are not trained."""
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.layers import companions, layers, left_alone, select  # noqa: PLC0415

        found = layers(model)
        selected = {la.weight for la in select(found, self.include, self.exclude, others=model.weights)}
        names, refusals = [], list(left_alone(model, found))
        for layer in found:
            encoding = model.encodings.get(layer.weight)
            if layer.weight not in selected:
                why = "excluded by --exclude" if self.exclude else "not named by --include"
                refusals.append(Refusal(layer.weight, why))
            elif encoding is not None and encoding.kind != "dense" and not encoding.numbers():
                refusals.append(Refusal(layer.weight, f"stays as it is stored, as {encoding.kind}"))
            else:
                names.append(layer.weight)
        others = [n for n in companions(model, found) if _dense(model, n) or model.encodings[n].numbers()]
        return (*names, *others), tuple(refusals)


def _dense(model: Model, name: str) -> bool:
    encoding = model.encodings.get(name)
    return encoding is None or encoding.kind == "dense"


def _why_not(model: Model, task: Task, resources: Resources) -> str:
    """Return why training changed nothing."""
    own = resources.teacher is None or resources.teacher is model
    if own and not task.labelled:
        return (
            "has nothing to learn: without labels the model is its own teacher; give labels, or compress and "
            "fine-tune the original model in one run"
        )
    return "did better on the validation examples as it was than after any epoch"
