"""What all LC methods share: options of the path, the choice of weights, training or direct compression.

A method says which weights are compressed how (:meth:`LcMethod._parts`); everything else is done here.
"""

# ruff: noqa: RUF009  `option` returns a dataclass field

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxcompress.core.errors import UsageError
from onnxcompress.methods._base import DEAREST, LONGEST, STEEPEST, Method, option
from onnxcompress.methods._finite import check_finite

if TYPE_CHECKING:
    from onnxcompress.core.encoding import Array, Encoding
    from onnxcompress.core.model import Model
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.refusal import Refusal
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task
    from onnxcompress.engine.layers import Layer
    from onnxcompress.engine.lc.loop import Part
    from onnxcompress.engine.lc.schedule import Wishes

Mode = Literal["lc", "idc", "dc"]

NODE_BYTES = 300
"""What the nodes and names that decode one weight take in the file, at least."""

_NEAR = 4.0
"""A weight may become so many times larger: by a power of two, a grid's last step, a rank that is cut off."""

WHOLE = "is worth more whole than it costs"
"""Why a weight that might have been compressed is not."""


@dataclass(frozen=True)
class Chosen:
    """What an LC method is to compress, and what it may go by.

    Attributes:
        model: the model as it is now.
        layers: the layers to compress.
        arrays: weight name -> value, of these layers.
        task: the data; None where there is none.
        resources: shapes of inputs, means to measure latency, the device.
    """

    model: Model
    layers: Sequence[Layer]
    arrays: Mapping[str, Array]
    task: Task | None
    resources: Resources


@dataclass(frozen=True)
class LcMethod(Method):
    """A compression by the LC algorithm: learning-compression with data, the projection alone without.

    Raises:
        UsageError: an option is out of range.
    """

    node_bytes: ClassVar[int] = NODE_BYTES
    """What the nodes that decode one weight take in the file: smaller weights are left alone."""

    mode: Mode = option(
        "lc",
        "With data: lc (learning-compression), idc (train and compress in turn, no penalty) or dc (compress "
        "only).",
        choices=("lc", "idc", "dc"),
    )
    augmented: bool = option(True, "Augmented Lagrangian; otherwise the quadratic penalty.")
    others: bool = option(True, "Train biases, normalisation and uncompressed weights along.")
    teacher: float = option(
        0.5,
        "Share of the loss, 0 to 1, that pulls towards the original's outputs where there are class labels.",
    )
    noise: float = option(
        0.04,
        "Noise on inputs while training on class labels: the share of their variance by which the original's "
        "outputs may move. 0: none.",
    )
    augment: bool = option(True, "Show pictures shifted as well, as far as the original hardly notices.")
    mix: bool = option(True, "Add mixtures of two examples where there are few, without labels.")
    steps: int | None = option(
        None, "Number of L steps. [default: 40, up to 60 where weights resist]", most=LONGEST
    )
    epochs: float | None = option(
        None, "Passes over the training data in one L step. [default: by its size]", most=LONGEST
    )
    lr: float | None = option(
        None, "Learning rate of the first L step. [default: found by short runs]", most=STEEPEST
    )
    mu0: float | None = option(
        None, "Penalty parameter of the first L step. [default: by the learning rate]", most=DEAREST
    )
    growth: float | None = option(
        None, "Factor of the penalty parameter from one L step to the next.", most=STEEPEST
    )
    batch_size: int | None = option(None, "Examples of one SGD step. [default: 128, fewer of large ones]")
    include: tuple[str, ...] = option((), "Compress only weights whose name, or whose node's name, matches.")
    exclude: tuple[str, ...] = option((), "Leave weights uncompressed whose name, or node's name, matches.")

    @property
    def trains(self) -> bool:
        """Whether it trains where there is data."""
        return self.mode != "dc"

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "lr", "mu0", "batch_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name.replace('_', '-')} must be positive", why=f"found {value}")
        if not 0 <= self.noise <= 1:
            raise UsageError("--noise must be 0 to 1", why=f"found {self.noise}")
        if not 0 <= self.teacher <= 1:
            raise UsageError("--teacher must be 0 to 1", why=f"found {self.teacher}")
        if self.growth is not None and self.growth < 1:
            raise UsageError("--growth must be at least 1", why=f"found {self.growth}")
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))

    # what a method says ------------------------------------------------------------------------------------

    @abstractmethod
    def _parts(self, chosen: Chosen) -> tuple[list[Part], list[Refusal]]:
        """Return which weights are compressed how, and why some of the layers are left alone after all."""

    def _kept(self, encoding: Encoding) -> str | None:
        """Return why a weight that is encoded already stays so; None where it is to be encoded anew."""
        return None if encoding.kind == "dense" else f"is stored as {encoding.kind} already"

    def _warnings(self, chosen: Chosen, encodings: Mapping[str, Encoding]) -> list[str]:
        """Return what the user must know of the compression, trained or not."""
        return []

    def _untrained_warnings(self, chosen: Chosen, encodings: Mapping[str, Encoding]) -> list[str]:
        """Return what the user must know where the weights are only projected."""
        return []

    def _worthwhile(
        self, parts: Sequence[Part], direct: Mapping[str, Encoding], chosen: Chosen
    ) -> tuple[list[Part], list[Refusal]]:
        """Leave weights alone whose parameters and decoding nodes take more bytes than they do now."""
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415
        from onnxcompress.engine.proto import plain_bytes  # noqa: PLC0415
        from onnxcompress.engine.storage.pool import stored_bits  # noqa: PLC0415

        bits = stored_bits(chosen.model.with_encodings(direct, "direct"))
        kept, refusals = [], []
        for part in parts:
            stay = []
            for position, name in enumerate(part.weights):
                before = plain_bytes(chosen.model.weights[name])
                after = -(-bits.get(name, direct[name].stored_bits()) // 8) + self.node_bytes
                if after < before:
                    stay.append(position)
                else:
                    sizes = f"{before} bytes now, about {after} with the nodes that decode it"
                    refusals.append(Refusal(name, f"would not get smaller: {sizes}"))
            if len(stay) == len(part.weights):
                kept.append(part)
            elif stay:
                kept.append(Part(tuple(part.weights[i] for i in stay), part.projection.of(stay)))
        return kept, refusals

    def _told(self, plan: Plan) -> Plan:
        """Return the decision as it is carried out: weights that came out whole are no encoded ones."""
        return _without_whole(plan)

    # what is done ------------------------------------------------------------------------------------------

    def plan(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        """Choose the weights, project them, and train where there is data.

        Raises:
            UnsupportedError: a weight holds NaN or infinities.
            UsageError: a glob matches nothing; the device is not there.
        """
        from onnxcompress.core.plan import Plan  # noqa: PLC0415
        from onnxcompress.engine.layers import layers, left_alone  # noqa: PLC0415
        from onnxcompress.engine.lc.loop import project  # noqa: PLC0415

        found = layers(model)
        selected, refusals = self._choose(model, found)
        arrays = {layer.weight: model.array(layer.weight) for layer in selected}
        check_finite(arrays, "it has no closest compressed form")
        chosen = Chosen(model, selected, arrays, task, resources)
        wanted, others = self._parts(chosen)
        wanted, huge = _representable(wanted, arrays)
        direct = project(wanted, arrays)
        parts, small = self._worthwhile(wanted, direct, chosen)
        refusals = [*refusals, *others, *huge, *small, *left_alone(model, found)]
        # What is compressed jointly is so without the weights that are left alone after all.
        direct |= project([part for part in parts if part not in wanted], arrays)
        encodings = {name: direct[name] for part in parts for name in part.weights}
        if not encodings:
            return Plan({}, refusals=tuple(refusals))
        warnings = self._warnings(chosen, encodings)
        if task is None or self.mode == "dc":
            plan = Plan(encodings, warnings=tuple(self._untrained_warnings(chosen, encodings)))
        else:
            plan = self._trained(chosen, parts, found)
        plan = replace(plan, refusals=tuple(refusals), warnings=(*warnings, *plan.warnings))
        return self._told(plan)

    def _trained(self, chosen: Chosen, parts: Sequence[Part], found: Sequence[Layer]) -> Plan:
        """Return the weights after the path; the layers no part names are trained along."""
        from onnxcompress.core.plan import Plan  # noqa: PLC0415
        from onnxcompress.encodings.dense import Dense  # noqa: PLC0415
        from onnxcompress.engine.layers import companions  # noqa: PLC0415

        # torch is imported only where something is trained
        from onnxcompress.engine.lc.training import Job, train  # noqa: PLC0415
        from onnxcompress.engine.training.distillation import with_teacher  # noqa: PLC0415
        from onnxcompress.engine.training.shifts import may_shift  # noqa: PLC0415

        model, task = chosen.model, chosen.task
        assert task is not None
        names = {name for part in parts for name in part.weights}
        along = [*companions(model, found), *(la.weight for la in found if la.weight not in names)]
        job = Job(
            model,
            parts,
            [n for n in along if not _encoded(model, n)] if self.others else [],
            with_teacher(task, self.teacher),
            chosen.resources,
            self._wishes(),
            batch_size=self.batch_size,
            mix=self.mix,
            # Where outputs are values and not classes, noise would teach the network to remove it.
            noise=self.noise if task.labelled and task.loss == "ce" else 0.0,
            shift=self.augment and may_shift(task),
        )
        trained = train(replace(job, fingerprint=self.fingerprint(model, task)))
        return Plan(
            trained.encodings,
            {name: Dense(array) for name, array in trained.others.items()},
            warnings=trained.warnings,
            training=trained.training,
        )

    def _choose(self, model: Model, found: tuple[Layer, ...]) -> tuple[list[Layer], list[Refusal]]:
        """Return the layers to compress, and why the others are not."""
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.layers import select  # noqa: PLC0415

        selected = set(select(found, self.include, self.exclude, others=model.weights))
        chosen, refusals = [], []
        for layer in found:
            encoding = model.encodings.get(layer.weight)
            if layer not in selected:
                why = "excluded by --exclude" if self.exclude else "not named by --include"
                refusals.append(Refusal(layer.weight, why))
            elif encoding is not None and (kept := self._kept(encoding)):
                refusals.append(Refusal(layer.weight, kept))
            else:
                chosen.append(layer)
        return chosen, refusals

    def _wishes(self) -> Wishes:
        from onnxcompress.engine.lc.schedule import Wishes  # noqa: PLC0415

        return Wishes(
            mode=self.mode,
            multipliers=self.augmented,
            steps=self.steps,
            epochs=self.epochs,
            lr=self.lr,
            mu0=self.mu0,
            growth=self.growth,
        )


def untrained_advice(task: Task | None) -> str:
    """Return what to do where weights were only projected."""
    if task is not None:
        return "use --mode lc"
    return "give --data, labels are not needed (the original teaches)"


def _representable(parts: Sequence[Part], arrays: Mapping[str, Array]) -> tuple[list[Part], list[Refusal]]:
    """Leave weights alone that are so near the end of their type that their closest form is beyond it."""
    import numpy as np  # noqa: PLC0415

    from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
    from onnxcompress.engine.lc.loop import Part, project  # noqa: PLC0415

    kept, refusals = [], []
    for part in parts:
        stay = list(range(len(part.weights)))
        if any(_is_near_the_end(arrays[name]) for name in part.weights):
            with np.errstate(over="ignore", invalid="ignore"):
                found = project([part], arrays)
                stay = [i for i, name in enumerate(part.weights) if np.isfinite(found[name].decode()).all()]
        told = "its closest compressed form is not finite: its numbers are near the largest of their type"
        refusals += [Refusal(name, told) for i, name in enumerate(part.weights) if i not in stay]
        if len(stay) == len(part.weights):
            kept.append(part)
        elif stay:
            kept.append(Part(tuple(part.weights[i] for i in stay), part.projection.of(stay)))
    return kept, refusals


def _is_near_the_end(array: Array) -> bool:
    import numpy as np  # noqa: PLC0415

    if not array.size:
        return False
    least, most = float(array.min()), float(array.max())
    with np.errstate(over="ignore"):
        return bool(np.isinf(np.asarray(_NEAR * max(-least, most)).astype(array.dtype)))


def _without_whole(plan: Plan) -> Plan:
    """Return the plan without weights that came out as they went in; their values stay where they changed."""
    from onnxcompress.core.refusal import Refusal  # noqa: PLC0415

    whole = {name: e for name, e in plan.weights.items() if e.kind == "dense"}
    trained = {} if plan.training is None else whole
    told = [Refusal(name, WHOLE) for name in whole]
    return replace(
        plan,
        weights={name: e for name, e in plan.weights.items() if name not in whole},
        values={**plan.values, **trained},
        refusals=(*plan.refusals, *told),
    )


def _encoded(model: Model, name: str) -> bool:
    encoding = model.encodings.get(name)
    return encoding is not None and encoding.kind != "dense"
