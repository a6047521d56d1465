"""lc-quant: weights from small learned codebooks, trained by the LC algorithm where there is data."""

# ruff: noqa: RUF009  `option` returns a dataclass field

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.methods._base import METHODS, Method, Needs, option

if TYPE_CHECKING:
    from onnxcompress.core.encoding import Array, Encoding
    from onnxcompress.core.model import Model
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.refusal import Refusal
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task
    from onnxcompress.encodings._base import Projection
    from onnxcompress.engine.layers import Layer
    from onnxcompress.engine.lc.loop import Part
    from onnxcompress.engine.lc.schedule import Wishes

Codebook = Literal["adaptive", "binary", "ternary", "pow2", "int"]
Granularity = Literal["tensor", "channel", "group"]
Mode = Literal["lc", "idc", "dc"]
Augment = Literal["auto", "shift", "none"]

DEFAULT_BITS = 4
"""Bits where neither bits nor entries are given: what direct compression usually survives."""

NODE_BYTES = 300
"""What the nodes and names that decode one weight take in the file, at least."""


@METHODS.register("lc-quant")
@dataclass(frozen=True)
class LcQuant(Method):
    """Codebook quantisation. With data: learning-compression; without: the closest codebook.

    See the options' own texts; None is "found automatically".

    Raises:
        UsageError: options that contradict each other or are out of range.
    """

    name: ClassVar[str] = "lc-quant"
    source: ClassVar[str] = (
        "Carreira-Perpiñán (2017), Model compression as constrained optimization, part I, eqs. 7–10 and 17; "
        "Carreira-Perpiñán and Idelbayev (2017), part II: quantization"
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    summary: ClassVar[str] = "weights from learned codebooks of 1 to 8 bits, stored bit-packed"

    bits: int | None = option(
        None, f"Bits a weight, 1 to 8: codebooks of 2^bits entries. [default: {DEFAULT_BITS}]"
    )
    entries: int | None = option(None, "Entries of a codebook, 2 to 256, instead of --bits.")
    codebook: Codebook = option(
        "adaptive",
        "Kind of codebook: learned entries, or fixed ones times a learned scale.",
        choices=("adaptive", "binary", "ternary", "pow2", "int"),
    )
    learn_scale: bool = option(True, "Learn the scale of fixed codebooks; otherwise it is 1.")
    pin_zero: bool = option(False, "Keep one entry of an adaptive codebook at exactly 0.")
    granularity: Granularity = option(
        "tensor",
        "One codebook for each weight tensor, output channel, or group of weights in a channel.",
        choices=("tensor", "channel", "group"),
    )
    group_size: int | None = option(None, "Weights in a group; implies --granularity group.")
    joint: bool = option(False, "One codebook for all weights together.")
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
    augment: Augment = option(
        "auto",
        "Show pictures shifted as far as the original hardly notices: auto (where there are no labels), "
        "shift (with class labels, too) or none.",
        choices=("auto", "shift", "none"),
    )
    mix: bool = option(True, "Add mixtures of two examples where there are few, without labels.")
    steps: int | None = option(None, "Number of L steps. [default: 40]")
    epochs: float | None = option(None, "Passes over the training data in one L step. [default: by its size]")
    lr: float | None = option(None, "Learning rate of the first L step. [default: found by short runs]")
    mu0: float | None = option(None, "Penalty parameter of the first L step. [default: by the learning rate]")
    growth: float | None = option(None, "Factor of the penalty parameter from one L step to the next.")
    batch_size: int | None = option(None, "Examples of one SGD step.")
    include: tuple[str, ...] = option((), "Compress only weights whose name, or whose node's name, matches.")
    exclude: tuple[str, ...] = option((), "Leave weights uncompressed whose name, or node's name, matches.")

    def __post_init__(self) -> None:
        self._check_codebook()
        self._check_granularity()
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

    def _check_codebook(self) -> None:
        if self.bits is not None and self.entries is not None:
            raise UsageError("--bits and --entries exclude each other", fix="give one of them")
        if self.bits is not None and not 1 <= self.bits <= 8:
            raise UsageError("--bits must be 1 to 8", why=f"found {self.bits}")
        if self.entries is not None and not 2 <= self.entries <= 256:
            raise UsageError("--entries must be 2 to 256", why=f"found {self.entries}")
        fixed = {"binary": (1, 2), "ternary": (2, 3)}.get(self.codebook)
        if fixed is not None and (self.bits not in (None, fixed[0]) or self.entries not in (None, fixed[1])):
            raise UsageError(
                f"a {self.codebook} codebook has {fixed[1]} entries",
                fix="leave --bits and --entries out, or choose another --codebook",
            )
        if self.codebook == "pow2" and self.size < 3:
            raise UsageError("a pow2 codebook needs at least 3 entries", why=f"found {self.size}")
        if self.pin_zero and self.codebook != "adaptive":
            raise UsageError("--pin-zero is for adaptive codebooks", why=f"the codebook is {self.codebook}")
        if not self.learn_scale and self.codebook == "adaptive":
            raise UsageError(
                "--no-learn-scale is for fixed codebooks", why="an adaptive codebook has no scale"
            )

    def _check_granularity(self) -> None:
        if self.granularity == "group" and self.group_size is None:
            raise UsageError("--granularity group needs --group-size")
        if self.group_size is not None:
            if self.group_size < 1:
                raise UsageError("--group-size must be positive", why=f"found {self.group_size}")
            if self.granularity == "channel":
                raise UsageError("--group-size contradicts --granularity channel")
            object.__setattr__(self, "granularity", "group")
        if self.joint and self.granularity != "tensor":
            raise UsageError("--joint means one codebook for all weights", why="and not one for each part")
        if not self.learn_scale and self.granularity != "tensor":
            raise UsageError("--no-learn-scale leaves nothing to choose for each channel or group")

    @property
    def size(self) -> int:
        """Number of entries of one codebook."""
        if self.codebook in ("binary", "ternary"):
            return 2 if self.codebook == "binary" else 3
        return self.entries if self.entries is not None else 2 ** (self.bits or DEFAULT_BITS)

    def plan(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        """Choose the weights, project them, and train where there is data.

        Raises:
            UnsupportedError: a weight holds NaN or infinities.
            UsageError: a glob matches nothing; the device is not there.
        """
        from onnxcompress.core.plan import Plan  # noqa: PLC0415
        from onnxcompress.encodings.dense import Dense  # noqa: PLC0415
        from onnxcompress.engine.layers import companions, layers, left_alone  # noqa: PLC0415
        from onnxcompress.engine.lc.loop import project  # noqa: PLC0415

        found = layers(model)
        chosen, refusals = self._choose(model, found)
        arrays = {layer.weight: model.array(layer.weight) for layer in chosen}
        _check_finite(arrays)
        parts = self._parts(chosen, arrays)
        direct = project(parts, arrays)
        parts, small = _worthwhile(parts, direct, arrays)
        refusals = [*refusals, *small, *left_alone(model, found)]
        names = {name for part in parts for name in part.weights}
        if not names:
            return Plan({}, refusals=tuple(refusals))
        warnings = self._granularity_warnings(chosen)
        if task is None or self.mode == "dc":
            warnings += self._untrained_warnings(task)
            encodings = project(parts, {n: arrays[n] for n in names}) if small and self.joint else direct
            return Plan({n: encodings[n] for n in names}, refusals=tuple(refusals), warnings=tuple(warnings))
        # torch is imported only where something is trained
        from onnxcompress.engine.lc.training import Job, train  # noqa: PLC0415
        from onnxcompress.engine.training.distillation import with_teacher  # noqa: PLC0415
        from onnxcompress.engine.training.shifts import may_shift  # noqa: PLC0415

        along = [*companions(model, found), *(la.weight for la in found if la.weight not in names)]
        others = [n for n in along if not _encoded(model, n)] if self.others else []
        # Where outputs are values and not classes, noise would teach the network to remove it.
        noise = self.noise if task.labelled and task.loss == "ce" else 0.0
        job = Job(
            model,
            parts,
            others,
            with_teacher(task, self.teacher),
            resources,
            self._wishes(),
            batch_size=self.batch_size,
            mix=self.mix,
            noise=noise,
            shift=may_shift(self.augment, task),
        )
        trained = train(replace(job, fingerprint=self._fingerprint(model, task)))
        return Plan(
            trained.encodings,
            {name: Dense(array) for name, array in trained.others.items()},
            refusals=tuple(refusals),
            warnings=(*warnings, *trained.warnings),
            training=trained.training,
        )

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

    def _fingerprint(self, model: Model, task: Task) -> dict[str, Any]:
        """Return what a resumed run must have in common with the interrupted one."""
        return {
            "method": {"name": self.name, **asdict(self)},
            "model": model.source.sha256,
            "steps": list(model.steps),
            "seed": task.seed,
            "examples": [len(task.train), len(task.validation)],
        }

    # choosing ----------------------------------------------------------------------------------------------

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

    def _kept(self, encoding: Encoding) -> str | None:
        """Return why a weight that is encoded already stays so; None where it is to be encoded anew."""
        entries = encoding.codebook()
        if encoding.kind == "dense" or entries is None or entries.shape[-1] > self.size:
            return None
        return f"is stored with {entries.shape[-1]} entries already, no more than the {self.size} asked for"

    def _parts(self, chosen: list[Layer], arrays: dict[str, Array]) -> list[Part]:
        from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415

        if self.joint:
            # One codebook has one type: weights of another type have another one.
            types = dict.fromkeys(array.dtype for array in arrays.values())
            groups = [tuple(n for n, array in arrays.items() if array.dtype == t) for t in types]
            return [Part(names, self._projection(None)) for names in groups]
        return [Part((layer.weight,), self._projection(layer)) for layer in chosen]

    def _projection(self, layer: Layer | None) -> Projection:
        """Return Π for one weight, or for several jointly."""
        from onnxcompress.encodings.codebook import AdaptiveCodebook  # noqa: PLC0415
        from onnxcompress.encodings.scaled import Binary, IntGrid, PowersOfTwo, Ternary  # noqa: PLC0415

        axis = layer.out_axis if layer is not None else None
        where: dict[str, Any] = {"granularity": "tensor"}
        if axis is not None and self.granularity != "tensor":
            where = {"granularity": self.granularity, "axis": axis, "group_size": self.group_size}
        if self.codebook == "adaptive":
            return AdaptiveCodebook(self.size, pin_zero=self.pin_zero, **where)
        if self.codebook == "binary":
            return Binary(scaled=self.learn_scale, **where)
        if self.codebook == "ternary":
            return Ternary(scaled=self.learn_scale, **where)
        kind = PowersOfTwo if self.codebook == "pow2" else IntGrid
        return kind(entries=self.size, scaled=self.learn_scale, **where)

    # telling -----------------------------------------------------------------------------------------------

    def _granularity_warnings(self, chosen: list[Layer]) -> list[str]:
        unknown = [layer.weight for layer in chosen if layer.out_axis is None]
        if self.granularity == "tensor" or not unknown:
            return []
        told = ", ".join(f"'{name}'" for name in unknown[:3])
        return [f"the output channels of {told} cannot be told; they have one codebook each"]

    def _untrained_warnings(self, task: Task | None) -> list[str]:
        advice = (
            "use --mode lc"
            if task is not None
            else "give --data, labels are not needed (the original teaches)"
        )
        if self.size <= 8:
            return [
                f"codebooks of {self.size} entries without training usually make a model unusable; {advice}"
            ]
        if self.size <= 16:
            return [f"codebooks of {self.size} entries without training are marginal; {advice}"]
        return []


def _encoded(model: Model, name: str) -> bool:
    encoding = model.encodings.get(name)
    return encoding is not None and encoding.kind != "dense"


def _check_finite(arrays: dict[str, Array]) -> None:
    import numpy as np  # noqa: PLC0415

    for name, array in arrays.items():
        if not np.isfinite(array.astype(np.float64, copy=False)).all():
            kind = "NaN" if np.isnan(array.astype(np.float64)).any() else "infinite values"
            raise UnsupportedError(
                f"weight '{name}' holds {kind}",
                why="it has no closest codebook",
                fix=f"repair the model, or leave it alone with --exclude '{name}'",
            )


def _worthwhile(
    parts: list[Part], direct: dict[str, Encoding], arrays: dict[str, Array]
) -> tuple[list[Part], list[Refusal]]:
    """Leave weights alone whose codes, codebook and decoding nodes take more bytes than they do now."""
    from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
    from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415

    kept, refusals = [], []
    for part in parts:
        names = []
        for name in part.weights:
            before = int(arrays[name].nbytes)
            after = -(-direct[name].stored_bits() // 8) + NODE_BYTES
            if after < before:
                names.append(name)
            else:
                why = f"would not get smaller: {before} bytes now, about {after} with codebook and nodes"
                refusals.append(Refusal(name, why))
        if names:
            kept.append(Part(tuple(names), part.projection))
    return kept, refusals
