"""What is gated and trained: groups, their share of γ, and the weights that change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxcompress.core.channels import Group
from onnxcompress.core.model import Model
from onnxcompress.core.refusal import Refusal
from onnxcompress.engine.bottleneck.folding import why_no_gate, why_not
from onnxcompress.engine.channels import Channels
from onnxcompress.engine.channels.carried import carried
from onnxcompress.engine.channels.unsharing import UNSHARED
from onnxcompress.engine.layers import companions, layers, select

Scaling = Literal["constant", "map", "macs", "params"]


def gated_groups(
    channels: Channels, include: Sequence[str], exclude: Sequence[str], *, inputs: bool, folded: bool = False
) -> tuple[tuple[Group, ...], tuple[Refusal, ...]]:
    """Return the groups to gate, and why each other one is not.

    Where no weight could take μ in (two activations are multiplied, a tied weight makes other channels
    elsewhere), μ stays 1 (:mod:`onnxcompress.engine.bottleneck.gates`).

    Args:
        channels: the analysed model.
        include: globs on names of weights, or of nodes that use them.
        exclude: likewise.
        inputs: gate groups that only read the model's input, too.
        folded: only groups whose readers all have weights of their own, which could take μ in.

    Raises:
        UsageError: a glob matches nothing.
    """
    cuttable, refusals = _cuttable(channels, include, exclude, inputs=inputs)
    groups = []
    for group in cuttable:
        why = _why_ungated(group, channels.model, folded=folded or bool(group.frozen))
        if why is None and not folded and not _learns(group):
            why = "is read in front of numbers that are rounded, through which no gradient comes back"
        if why is None:
            groups.append(group)
        else:
            refusals.append(Refusal(group.name, why))
    return tuple(groups), tuple(refusals)


def only_cut(channels: Channels, include: Sequence[str], exclude: Sequence[str]) -> tuple[Group, ...]:
    """Return the groups that may be cut, but not gated: other methods can."""
    found, _ = _cuttable(channels, include, exclude, inputs=False)
    model = channels.model
    return tuple(g for g in found if _why_ungated(g, model, folded=False) is not None or not _learns(g))


def _cuttable(
    channels: Channels, include: Sequence[str], exclude: Sequence[str], *, inputs: bool
) -> tuple[list[Group], list[Refusal]]:
    """Return the groups that may be cut, and why each other one may not."""
    found = layers(channels.model)
    selected = {la.weight for la in select(found, include, exclude, others=channels.model.weights)}
    left_out = {la.weight for la in found} - selected
    groups, refusals = [], list(channels.out_of_reach)
    for group in channels.groups:
        made = {m.tensor for m in group.members if not m.consumes} or {m.tensor for m in group.members}
        if group.frozen and not (inputs and group.sliceable):
            refusals.append(Refusal(group.name, f"is kept because it {'; '.join(group.frozen)}"))
        elif made & left_out:
            why = "excluded by --exclude" if exclude else "not named by --include"
            refusals.append(Refusal(group.name, why))
        elif group.size < 2:
            refusals.append(Refusal(group.name, "has one channel, and no layer is emptied"))
        else:
            groups.append(group)
    return groups, refusals


def _why_ungated(group: Group, model: Model, *, folded: bool) -> str | None:
    if group.mixed:
        return "is normalised over: without a channel the others become something else, which no gate shows"
    return why_not(group, model) if folded else why_no_gate(group, model)


_ROUNDING = frozenset([
    "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv",
    "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "QLinearAdd", "QLinearMul",
])  # fmt: skip
"""Operators on quantised numbers: they have no gradient."""


def _learns(group: Group) -> bool:
    """Tell whether anything but rounding lies between a reader of the group and the outputs.

    Where only rounding does, α would stay what chance made it, and so would the choice of channels.
    """
    open_, seen = [site.node for site in group.sites], set[ir.Node]()
    while open_:
        node = open_.pop()
        if node in seen or node.op_type in _ROUNDING:
            continue
        seen.add(node)
        if any(value.is_graph_output() for value in node.outputs):
            return True
        open_.extend(user for value in node.outputs for user, _ in value.uses())
    return False


def weights_of_gamma(channels: Channels, groups: Sequence[Group], scaling: Scaling) -> dict[str, float]:
    """Return w_i of γ_i = γ · w_i for each group; their mean over all gated channels is 1.

    ``"constant"``: 1. ``"map"``: elements of a channel's feature map as the next layer reads it (the paper's
    sum runs over them). ``"macs"``, ``"params"``: the square root of what hangs on one channel; in proportion
    to the whole, channels that cost little would never be cut.
    """
    if scaling == "constant":
        raw = {g.name: 1.0 for g in groups}
    elif scaling == "map":
        raw = {g.name: map_elements(channels, g) for g in groups}
    else:
        costs = carried(channels)
        raw = {
            g.name: (costs[g.name].macs if scaling == "macs" else costs[g.name].parameters) / g.size
            for g in groups
        }
        raw = {name: math.sqrt(max(cost, 1.0)) for name, cost in raw.items()}
    total = sum(raw[g.name] * g.size for g in groups) / max(sum(g.size for g in groups), 1)
    return {name: value / total for name, value in raw.items()}


def map_elements(channels: Channels, group: Group) -> float:
    """Return the elements of one channel's feature map, as the layer that reads most of them reads it."""
    sizes = [1.0]
    for site in group.sites:
        value = site.node.inputs[site.slot]
        assert value is not None
        shape = channels.shape(value.name or "")
        count = np.bincount(site.channel_of[site.channel_of >= 0], minlength=group.size).max()
        examples = 1 if site.axis == 0 else shape[0]
        sizes.append(math.prod(shape) / max(examples, 1) / len(site.channel_of) * float(count))
    return max(sizes)


def trained_weights(channels: Channels, model: Model) -> tuple[str, ...]:
    """Return the weights that may change: dense ones of layers, biases and scales.

    What the analysis gave to several nodes as copies stays as it is: in the file it is one tensor.
    """
    found = layers(channels.model)
    names = [la.weight for la in found] + list(companions(channels.model, found))
    shared = set(_shared(channels.model))
    encoded = {n for n, e in model.encodings.items() if e.kind != "dense"}
    return tuple(n for n in names if n in model.weights and n not in shared and n not in encoded)


def _shared(model: Model) -> Iterable[str]:
    for weight in model.weights.values():
        original = weight.value.meta.get(UNSHARED)
        if original is not None:
            yield weight.name
            yield str(original)
