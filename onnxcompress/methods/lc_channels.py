"""lc-channels: whole channels cut, which ones found by the LC algorithm where there is data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxcompress.core.errors import UsageError
from onnxcompress.methods._base import METHODS, Needs, option
from onnxcompress.methods._cutting import KEEP, check_cut, require_channels, target_of
from onnxcompress.methods._lc import Chosen, LcMethod, untrained_advice

if TYPE_CHECKING:
    from onnxcompress.core.channels import Group
    from onnxcompress.core.encoding import Array, Encoding
    from onnxcompress.core.model import Model
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.refusal import Refusal
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task
    from onnxcompress.engine.allocation import Costs
    from onnxcompress.engine.channels import Channels
    from onnxcompress.engine.layers import Layer
    from onnxcompress.engine.lc.loop import Part


@METHODS.register("lc-channels")
@dataclass(frozen=True)
class LcChannels(LcMethod):
    """Pruning of channels. With data: learning-compression; without: those with the largest weights stay.

    See the options' own texts; None is "found automatically".

    Raises:
        UsageError: options that contradict each other or are out of range.
    """

    name: ClassVar[str] = "lc-channels"
    source: ClassVar[str] = (
        "Carreira-Perpiñán and Idelbayev (2018), “Learning-compression” algorithms for neural net pruning; "
        "of groups of weights: Idelbayev and Carreira-Perpiñán (2021), An LC toolkit"
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    summary: ClassVar[str] = "whole channels cut, which ones found in training: a smaller and faster model"

    keep: float | None = option(None, f"Share of the channels that stays. [default: {KEEP}]")
    target: str | None = option(
        None,
        "Instead of --keep: the share of the whole macs, params or (measured) latency that stays: macs=0.5.",
        metavar="QUANTITY=X",
    )
    scope: Literal["layer", "joint"] = option(
        "layer",
        "The same share of every layer, or one ranking for all together.",
        choices=("layer", "joint"),
    )
    round_to: int = option(16, "Widths are multiples of this, and of 4 below it; 1 allows any width.")

    def __post_init__(self) -> None:
        check_cut(self.keep, self.target, self.round_to)
        super().__post_init__()

    def plan(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        """Choose the channels, train where there is data, and say which stay.

        Raises:
            UnsupportedError: the target cannot be reached, or a weight holds NaN or infinities.
            UsageError: a glob matches nothing; the device is not there.
        """
        from onnxcompress.engine.channels import analyse  # noqa: PLC0415
        from onnxcompress.engine.layers import layers  # noqa: PLC0415
        from onnxcompress.engine.lc.channels import kept, slices_of  # noqa: PLC0415

        plan = super().plan(model, task, resources)
        if not plan.weights:
            return plan
        channels = analyse(model, resources.input_shapes)
        groups, _ = self._groups(channels, model, task)
        arrays = {name: encoding.decode() for name, encoding in plan.weights.items()}
        slices = slices_of(groups, channels, [layer.weight for layer in layers(model)])
        masks = kept(slices, arrays, {g.name: g.size for g in groups})
        keep = {name: mask for name, mask in masks.items() if not mask.all()}
        return replace(plan, weights={}, values={**plan.values, **plan.weights}, keep=keep)

    # choosing ----------------------------------------------------------------------------------------------

    def _choose(self, model: Model, found: tuple[Layer, ...]) -> tuple[list[Layer], list[Refusal]]:
        """Return all layers: what is chosen by name are channel groups."""
        return list(found), []

    def _parts(self, chosen: Chosen) -> tuple[list[Part], list[Refusal]]:
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.allocation import allocate  # noqa: PLC0415
        from onnxcompress.engine.channels import analyse  # noqa: PLC0415
        from onnxcompress.engine.lc.channels import ChannelPruning, slices_of  # noqa: PLC0415
        from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415

        model, resources = chosen.model, chosen.resources
        channels = analyse(model, resources.input_shapes)
        groups, refusals = self._groups(channels, model, chosen.task)
        if not groups:
            require_channels(self.target, refusals)
            return [], refusals
        slices = slices_of(groups, channels, list(chosen.arrays))
        weights = tuple(n for n in chosen.arrays if any(part.weight == n for part in slices))
        target = target_of(self.keep, self.target)
        costs = self._costs(channels, model, resources)
        found: list[Mapping[str, Array]] = []

        def decide(scores: Mapping[str, Array]) -> Mapping[str, Array]:
            # Latency is measured once: it would take longer than the training, and come out otherwise.
            if target.quantity == "latency" and found:
                return {name: _largest(scores[name], int(mask.sum())) for name, mask in found[0].items()}
            found.append(
                allocate(groups, scores, target, scope=self.scope, round_to=self.round_to, costs=costs).keep
            )
            return found[-1]

        projection = ChannelPruning(weights, {g.name: g.size for g in groups}, slices, decide)
        direct = projection.project([chosen.arrays[n] for n in weights])
        if all((e.decode() == chosen.arrays[n]).all() for n, e in zip(weights, direct, strict=True)):
            why = "would keep all its channels; --round-to 1 allows any width"
            return [], [*refusals, *(Refusal(g.name, why) for g in groups)]
        return [Part(weights, projection)], refusals

    def _groups(
        self, channels: Channels, model: Model, task: Task | None
    ) -> tuple[tuple[Group, ...], list[Refusal]]:
        """Return the groups whose channels may go, and why the others stay."""
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.bottleneck.choice import gated_groups, trained_weights  # noqa: PLC0415
        from onnxcompress.engine.layers import layers  # noqa: PLC0415

        found, others = gated_groups(channels, self.include, self.exclude, inputs=False, folded=True)
        changing = set(trained_weights(channels, model))
        if task is not None and self.mode != "dc":
            changing -= _without_gradient(model)
        of_layers = {layer.weight for layer in layers(model)}
        recurrent = {layer.weight for layer in layers(model) if layer.role == "recurrent"}
        groups, refusals = [], list(others)
        for group in found:
            made = {m.tensor for m in group.members if not m.consumes and m.tensor in of_layers}
            fixed = (made | {str(site.weight) for site in group.sites}) - changing
            if recurrent & {m.tensor for m in group.members}:
                why = "belongs to a recurrent layer, which sums over it inside"
                refusals.append(Refusal(group.name, why))
            elif fixed:
                why = f"hangs on '{min(fixed)}', whose values cannot be trained here"
                refusals.append(Refusal(group.name, why))
            else:
                groups.append(group)
        return tuple(groups), refusals

    def _costs(self, channels: Channels, model: Model, resources: Resources) -> Costs:
        from onnxcompress.engine.allocation import Costs  # noqa: PLC0415

        if self.target is not None and self.target.startswith("latency") and resources.latency is None:
            raise UsageError("--target latency cannot be measured here", fix="use --target macs=X")
        latency = None if resources.latency is None else partial(resources.latency, model)
        return Costs(channels.parameters, channels.macs, latency)

    def _worthwhile(
        self, parts: Sequence[Part], direct: Mapping[str, Encoding], chosen: Chosen
    ) -> tuple[list[Part], list[Refusal]]:
        """Every cut makes the model smaller."""
        return list(parts), []

    def _told(self, plan: Plan) -> Plan:
        """Return the decision with the weights as they are, zeros and all: these tell which channels go."""
        return plan

    def _untrained_warnings(self, chosen: Chosen, encodings: Mapping[str, Encoding]) -> list[str]:
        return [f"channels cut without training cost accuracy; {untrained_advice(chosen.task)}"]


def _largest(scores: Array, count: int) -> Array:
    """Return the mask of the largest scores."""
    import numpy as np  # noqa: PLC0415

    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def _without_gradient(model: Model) -> set[str]:
    """Return the weights that training cannot move."""
    from onnxcompress.engine.graph.torchgraph import TorchGraph  # noqa: PLC0415

    graph = TorchGraph(model)
    return {r.where for r in graph.without_gradient()} | (set(model.weights) - set(graph.trainable))
