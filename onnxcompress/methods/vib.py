"""vib: channels pruned while training by noisy gates, the variational information bottleneck."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.core.refusal import Refusal, in_words
from onnxcompress.methods._base import DEAREST, LONGEST, METHODS, STEEPEST, Method, Needs, option
from onnxcompress.methods._cutting import check_round_to, require_channels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.core.channels import Group
    from onnxcompress.core.model import Model
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task
    from onnxcompress.engine.bottleneck.choice import Scaling
    from onnxcompress.engine.bottleneck.goals import Goal
    from onnxcompress.engine.bottleneck.job import Job, Wishes
    from onnxcompress.engine.channels import Channels

GAMMA = 1e-3
LR = 1e-3
NORMALISED = 20_000
"""Examples from which on normalisation is lent unasked."""

_INSTEAD = "--method magnitude, with finetune behind it, cuts what cannot be gated"
_IDLE = "no alpha fell to the threshold; more --epochs, a larger --gamma or a --target presses harder"

_SCALINGS = ("auto", "constant", "map", "cost")


@METHODS.register("vib")
@dataclass(frozen=True)
class Vib(Method):
    """Structured pruning by the variational information bottleneck.

    See the options' own texts; None is "found automatically".

    Raises:
        UsageError: options that contradict each other or are out of range.
    """

    name: ClassVar[str] = "vib"
    source: ClassVar[str] = (
        "Dai, Zhu, Guo, Wipf (2018), Compressing neural networks using the variational information "
        "bottleneck, eqs. 5, 10 and 11"
    )
    needs: ClassVar[Needs] = Needs.INPUTS
    summary: ClassVar[str] = "cuts channels that carry little information, found by noisy gates in training"

    gamma: float | None = option(
        None,
        f"Strength of the bottleneck; with --target, where steering starts. [default: {GAMMA:g}]",
        most=DEAREST,
    )
    target: str | None = option(
        None,
        "Steer gamma so that this share (or number) of the macs, params, elements of feature maps or "
        "(measured) latency stays: macs=0.5, params=7k; several with commas, or one by one, all of which "
        "then hold.",
        metavar="QUANTITY=X",
        joined=True,
    )
    scaling: Literal["auto", "constant", "map", "cost"] = option(
        "auto",
        "Gamma of a channel: constant, by the size of its feature map (the paper), or by what it costs; "
        "auto: cost with --target, else constant.",
        choices=_SCALINGS,
    )
    gate_inputs: bool = option(False, "Gate what layers read of the model's input, too (pixels of a Gemm).")
    threshold: float = option(
        1.0, "Channels whose alpha = mu^2/sigma^2 is not over this are cut.", most=DEAREST
    )
    round_to: int = option(16, "Widths are multiples of this, and of 4 below it; 1 allows any width.")
    epochs: float | None = option(
        None, "Passes over the training data with gates. [default: 10, more over few examples]", most=LONGEST
    )
    after: float | None = option(None, "Passes without, after the decision. [default: as many]", most=LONGEST)
    lr: float = option(LR, "Learning rate of the weights (Adam).", most=STEEPEST)
    gate_lr: float | None = option(
        None, "Learning rate of the gates. [default: by the number of steps]", most=STEEPEST
    )
    weight_decay: float = option(0.0, "Factor of the l2 penalty on weights.", most=STEEPEST)
    warm_up: float = option(0.1, "Part of the gated training, 0 to 1, in which gamma grows from 0.")
    batch_size: int | None = option(None, "Examples of one step. [default: 64, fewer of large ones]")
    teacher: float = option(
        0.5,
        "Share of the loss, 0 to 1, that pulls towards the original's outputs where there are class labels.",
    )
    augment: bool = option(True, "Show pictures shifted as well, as far as the original hardly notices.")
    farthest: float | None = option(
        None, "Largest shift in pixels. [default: as far as the original hardly notices]", most=LONGEST
    )
    normalise: bool | None = option(
        None,
        "Lend BatchNormalization to hidden layers without, for the time of training. "
        "[default: with class labels of 20,000 examples or more]",
    )
    information: bool = option(
        False, "Estimate along training what each layer's gates let through of their input, for the report."
    )
    include: tuple[str, ...] = option((), "Gate only layers whose weight's, or node's, name matches.")
    exclude: tuple[str, ...] = option((), "Leave layers alone whose weight's, or node's, name matches.")

    @property
    def trains(self) -> bool:
        """Whether it trains where there is data."""
        return True

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))
        for name in ("gamma", "threshold", "epochs", "lr", "gate_lr", "batch_size", "farthest"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name.replace('_', '-')} must be positive", why=f"found {value:g}")
        for name in ("after", "weight_decay"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise UsageError(f"--{name.replace('_', '-')} must not be negative")
        for name in ("warm_up", "teacher"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"--{name.replace('_', '-')} must be 0 to 1", why=f"found {getattr(self, name):g}"
                )
        if self.scaling not in _SCALINGS:
            raise UsageError(f"--scaling must be one of {', '.join(_SCALINGS)}")
        check_round_to(self.round_to)
        self._goals()

    def _goals(self) -> tuple[Goal, ...]:
        from onnxcompress.engine.bottleneck.goals import read_goals  # noqa: PLC0415

        return () if self.target is None else read_goals(self.target)

    def plan(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        """Train gates and weights, and decide which channels stay.

        Raises:
            UnsupportedError: no channel can be gated, or the target cannot be met.
            UsageError: a glob matches nothing; there is no data; the device is not there.
        """
        from onnxcompress.core.plan import Plan  # noqa: PLC0415
        from onnxcompress.encodings.dense import Dense  # noqa: PLC0415
        from onnxcompress.engine.bottleneck import information  # noqa: PLC0415
        from onnxcompress.engine.bottleneck.choice import gated_groups, only_cut  # noqa: PLC0415
        from onnxcompress.engine.bottleneck.inputs import costlier, zeroed  # noqa: PLC0415
        from onnxcompress.engine.bottleneck.training import press  # noqa: PLC0415
        from onnxcompress.engine.channels import analyse  # noqa: PLC0415
        from onnxcompress.engine.widths import OutOfReachError  # noqa: PLC0415

        if task is None:
            raise UsageError("method 'vib' needs data", fix="give inputs with --data")
        if self.information:
            information.check(len(task.validation))
        channels = analyse(model, resources.input_shapes)
        groups, refusals = gated_groups(channels, self.include, self.exclude, inputs=self.gate_inputs)
        encoded = any(encoding.kind != "dense" for encoding in model.encodings.values())
        others = not encoded and only_cut(channels, self.include, self.exclude)
        instead = _INSTEAD if others else None
        if not groups:
            require_channels(self.target, refusals, instead)
            return _nothing(refusals, (), "; ".join(filter(None, ("no channel can be gated", instead))))
        job = self._job(model, channels, groups, task, resources)
        idle = _IDLE if job.measures is None else f"the target {job.measures.asked} is met already"
        if job.measures is not None and job.measures.met:
            return _nothing(refusals, groups, idle)
        try:
            found = press(job)
        except OutOfReachError as error:
            why = f"{error.why}; not gated: {in_words(refusals)}" if refusals else error.why
            fix = "; ".join(filter(None, (error.fix, instead)))
            raise UnsupportedError(error.what, why=why, fix=fix) from None
        keep, arrays = dict(found.keep), dict(found.arrays)
        if not keep:
            plan = _nothing(refusals, groups, idle)
            return replace(plan, training=found.training, warnings=(*plan.warnings, *found.warnings))
        # A target is about what is left to do, not about the file.
        zero = costlier(groups, keep, model) if self.target is None else ()
        whole = [Refusal(g.name, "lost no channel") for g in groups if g.name not in keep]
        arrays |= zeroed(zero, keep, arrays, model)
        for group in zero:
            lost = int((~keep.pop(group.name)).sum())
            whole.append(
                Refusal(group.name, f"choosing among them costs more than it saves: {lost} have weight 0")
            )
        return Plan(
            values={name: Dense(array) for name, array in arrays.items()},
            keep=keep,
            refusals=(*refusals, *whole),
            warnings=found.warnings,
            training=found.training,
        )

    def _job(
        self,
        model: Model,
        channels: Channels,
        groups: tuple[Group, ...],
        task: Task,
        resources: Resources,
    ) -> Job:
        from onnxcompress.engine.bottleneck.choice import trained_weights, weights_of_gamma  # noqa: PLC0415
        from onnxcompress.engine.bottleneck.goals import measures  # noqa: PLC0415
        from onnxcompress.engine.bottleneck.job import Job  # noqa: PLC0415
        from onnxcompress.engine.training.distillation import with_teacher  # noqa: PLC0415

        goals, latency = self._goals(), resources.latency
        found = None
        if goals:
            timed = None if latency is None else partial(latency, model)
            found = measures(goals, channels, groups, timed)
        return Job(
            channels,
            groups,
            weights_of_gamma(channels, groups, self._scaling(goals)),
            trained_weights(channels, model),
            with_teacher(task, self.teacher),
            resources,
            self._wishes(task),
            found,
            # A state has numbers for each group, and another version may find others.
            {**self.fingerprint(model, task), "gated": [[group.name, group.size] for group in groups]},
        )

    def _scaling(self, goals: Sequence[Goal]) -> Scaling:
        if self.scaling == "map":
            return "map"
        if self.scaling == "constant" or (self.scaling == "auto" and not goals):
            return "constant"
        return "params" if goals and goals[0].quantity == "params" else "macs"

    def _normalises(self, task: Task) -> bool:
        if self.normalise is not None:
            return self.normalise
        # Statistics of a batch are noise to a network that has to hit values.
        return task.labelled and task.loss == "ce" and len(task.train) >= NORMALISED and not task.random

    def _wishes(self, task: Task) -> Wishes:
        from onnxcompress.engine.bottleneck.job import Wishes  # noqa: PLC0415
        from onnxcompress.engine.training.shifts import may_shift  # noqa: PLC0415

        return Wishes(
            gamma=GAMMA if self.gamma is None else self.gamma,
            epochs=self.epochs,
            after=self.after,
            lr=self.lr,
            gate_lr=self.gate_lr,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            warm_up=self.warm_up,
            threshold=self.threshold,
            normalise=self._normalises(task),
            shift=self.augment and may_shift(task),
            farthest=self.farthest,
            round_to=self.round_to,
            information=self.information,
        )


def _nothing(refusals: Sequence[Refusal], groups: Sequence[Group], why: str) -> Plan:
    """Return a plan that changes nothing, which needs saying where other methods do change something."""
    from onnxcompress.core.plan import Plan  # noqa: PLC0415

    refusals = (*refusals, *(Refusal(group.name, why) for group in groups))
    return Plan(refusals=refusals, warnings=(f"vib changed nothing: {why}",))
