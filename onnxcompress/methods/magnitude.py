"""magnitude: the least important channels are cut, or the smallest weights set to zero."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxcompress.core.errors import UsageError
from onnxcompress.methods._base import METHODS, Method, Needs, option
from onnxcompress.methods._cutting import KEEP, check_cut, require_channels, target_of
from onnxcompress.methods._finite import check_finite
from onnxcompress.methods._zeros import zeros_warning

if TYPE_CHECKING:
    from onnxcompress.core.channels import Group, Member
    from onnxcompress.core.encoding import Array
    from onnxcompress.core.model import Model
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.refusal import Refusal
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task
    from onnxcompress.encodings._base import Projection
    from onnxcompress.engine.allocation import Allocation, Costs, Target
    from onnxcompress.engine.channels import Channels

NODE_BYTES = 500
"""What the nodes and names that decode one sparse weight take in the file, at least."""

_IMPORTANCES = ("l1", "l2", "bn-scale", "geometric-median", "taylor", "random")


@METHODS.register("magnitude")
@dataclass(frozen=True)
class Magnitude(Method):
    """Pruning by importance, of whole channels (a smaller and faster model) or single weights (smaller only).

    See the options' own texts; None is "found automatically".

    Raises:
        UsageError: options that contradict each other or are out of range.
    """

    name: ClassVar[str] = "magnitude"
    source: ClassVar[str] = (
        "channels: Li et al. (2017), Pruning filters for efficient convnets; "
        "weights: Han et al. (2015), Learning both weights and connections"
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    summary: ClassVar[str] = "cuts the least important channels, or sets the smallest weights to zero"

    keep: float | None = option(None, f"Share of the channels, or weights, that stays. [default: {KEEP}]")
    target: str | None = option(
        None,
        "Instead of --keep: the share of the whole macs, params or (measured) latency that stays: macs=0.5.",
        metavar="QUANTITY=X",
    )
    granularity: Literal["channel", "weight"] = option(
        "channel",
        "Cut channels, or set single weights to zero (smaller file, no speed-up).",
        choices=("channel", "weight"),
    )
    importance: str = option(
        "l2",
        "How channels are judged; taylor needs data.",
        choices=_IMPORTANCES,
    )
    scope: Literal["layer", "joint"] = option(
        "layer",
        "The same share of every layer, or one ranking for all together.",
        choices=("layer", "joint"),
    )
    round_to: int = option(16, "Widths are multiples of this, and of 4 below it; 1 allows any width.")
    include: tuple[str, ...] = option((), "Prune only layers whose weight's, or node's, name matches.")
    exclude: tuple[str, ...] = option((), "Leave layers alone whose weight's, or node's, name matches.")

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))
        check_cut(self.keep, self.target, self.round_to)
        if self.importance not in _IMPORTANCES:
            raise UsageError(
                f"there is no importance {self.importance!r}", fix=f"choose one of {', '.join(_IMPORTANCES)}"
            )
        if self.granularity == "weight":
            self._check_weight()

    def _check_weight(self) -> None:
        why = "zeros make the file smaller, but neither the work nor the latency less"
        if self.target is not None and not self.target.startswith("params="):
            raise UsageError(f"--target {self.target} is for channels", why=why, fix="use --keep")
        if self.importance != "l2":
            raise UsageError(
                f"--importance {self.importance} is for channels", why="weights go by their size"
            )

    def plan(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        """Rank channels or weights and decide which stay.

        Raises:
            UnsupportedError: the target cannot be reached, the importance has nothing to go by, or a weight
                holds NaN or infinities.
            UsageError: a glob matches nothing; the importance needs data and there is none.
        """
        if self.granularity == "weight":
            return self._plan_weights(model)
        return self._plan_channels(model, task, resources)

    # channels ----------------------------------------------------------------------------------------------

    def _plan_channels(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        from onnxcompress.core.plan import Plan  # noqa: PLC0415
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.allocation import allocate  # noqa: PLC0415
        from onnxcompress.engine.channels import analyse  # noqa: PLC0415
        from onnxcompress.engine.importance._base import IMPORTANCES, Evidence  # noqa: PLC0415

        channels = analyse(model, resources.input_shapes)
        groups, refusals = self._choose(channels)
        if not groups:
            require_channels(self.target, refusals)
        ranked = {m.tensor: channels.model.array(m.tensor) for g in groups for m in _weights(g, channels)}
        check_finite(ranked, "it cannot be ranked")
        evidence = Evidence(channels, task, resources.device, resources.seed if task is None else task.seed)
        scores = IMPORTANCES[self.importance]().scores(groups, evidence)
        target = target_of(self.keep, self.target)
        found = allocate(
            groups,
            scores.of,
            target,
            scope=self.scope,
            round_to=self.round_to,
            costs=self._costs(channels, model, resources, target),
        )
        refusals += [Refusal(name, why) for name, why in found.whole.items()]
        warnings = (*scores.warnings, *self._rounding(found, target))
        return Plan(keep=found.keep, refusals=tuple(refusals), warnings=warnings)

    def _choose(self, channels: Channels) -> tuple[list[Group], list[Refusal]]:
        """Return the groups to cut, and why the others are not."""
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.layers import layers, select  # noqa: PLC0415

        found = layers(channels.model)
        selected = {
            la.weight for la in select(found, self.include, self.exclude, others=channels.model.weights)
        }
        left_out = {la.weight for la in found} - selected
        groups, refusals = [], list(channels.out_of_reach)
        for group in channels.groups:
            made = {m.tensor for m in group.members if not m.consumes} or {m.tensor for m in group.members}
            if group.frozen:
                refusals.append(Refusal(group.name, f"is kept because it {'; '.join(group.frozen)}"))
            elif made & left_out:
                why = "excluded by --exclude" if self.exclude else "not named by --include"
                refusals.append(Refusal(group.name, why))
            else:
                groups.append(group)
        return groups, refusals

    def _costs(self, channels: Channels, model: Model, resources: Resources, target: Target) -> Costs:
        from onnxcompress.engine.allocation import Costs  # noqa: PLC0415

        if target.quantity == "latency" and resources.latency is None:
            raise UsageError("--target latency cannot be measured here", fix="use --target macs=X")
        latency = None if resources.latency is None else partial(resources.latency, model)
        return Costs(channels.parameters, channels.macs, latency)

    def _rounding(self, found: Allocation, target: Target) -> list[str]:
        """Say where rounding took more than a little."""
        if target.quantity != "channels" or not found.keep or target.share - found.reached < 0.02:
            return []
        return [
            f"{found.reached:.3g} of the channels that may be cut stay, not {target.share:g}, because widths "
            f"are multiples of {self.round_to}, and of 4 below that; --round-to 1 allows any"
        ]

    # weights -----------------------------------------------------------------------------------------------

    def _plan_weights(self, model: Model) -> Plan:
        from onnxcompress.core.plan import Plan  # noqa: PLC0415
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.encodings.sparse import Pruning  # noqa: PLC0415
        from onnxcompress.engine.layers import layers, left_alone, select  # noqa: PLC0415

        found = layers(model)
        selected = set(select(found, self.include, self.exclude, others=model.weights))
        refusals, arrays = [], {}
        for layer in found:
            encoding = model.encodings.get(layer.weight)
            if layer not in selected:
                why = "excluded by --exclude" if self.exclude else "not named by --include"
                refusals.append(Refusal(layer.weight, why))
            elif encoding is not None and encoding.kind not in ("dense", "sparse"):
                refusals.append(Refusal(layer.weight, f"is stored as {encoding.kind} already"))
            else:
                arrays[layer.weight] = model.array(layer.weight)
        check_finite(arrays, "it cannot be ranked")
        projection = Pruning(target_of(self.keep, self.target).share)
        names, small = self._worthwhile(model, arrays, projection)
        if self.scope == "joint" and names:
            encodings = dict(zip(names, projection.project([arrays[n] for n in names]), strict=True))
        else:
            encodings = {n: projection.project([arrays[n]])[0] for n in names}
        return Plan(
            encodings,
            refusals=(*refusals, *small, *left_alone(model, found)),
            warnings=(zeros_warning(model.opset),) if encodings else (),
        )

    def _worthwhile(
        self, model: Model, arrays: dict[str, Array], projection: Projection
    ) -> tuple[list[str], list[Refusal]]:
        """Return the weights that get smaller when pruned on their own, and why the others do not."""
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.proto import plain_bytes  # noqa: PLC0415

        names, refusals = [], []
        for name, array in arrays.items():
            after = -(-projection.project([array])[0].stored_bits() // 8) + NODE_BYTES
            before = plain_bytes(model.weights[name])
            if after < before:
                names.append(name)
            else:
                why = f"would not get smaller: {before} bytes now, about {after} with mask and nodes"
                refusals.append(Refusal(name, why))
        return names, refusals


def _weights(group: Group, channels: Channels) -> list[Member]:
    return [m for m in group.members if m.tensor in channels.model.weights]
