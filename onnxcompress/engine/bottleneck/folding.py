"""Folding: a gate's μ goes into the weight that its channel is multiplied with.

``Σ_j W_kj (μ_j h_j) = Σ_j (W_kj μ_j) h_j``, whatever made h, and for negative μ as well: a gate in front of a
layer needs no inverse of the activation before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxcompress.core.channels import Group, Site
from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model
from onnxcompress.engine.operands import readers


def why_no_gate(group: Group, model: Model) -> str | None:
    """Return why no gate can stand in for the cut of a group's channels, None where one can.

    Args:
        group: of ``model``.
        model: the analysed model.
    """
    if not group.sites:
        return "is summed over nowhere that a gate could sit"
    for site in group.sites:
        if site.weight is None:
            continue
        weight = model.weights.get(site.weight)
        encoding = model.encodings.get(site.weight)
        if weight is None or (encoding is not None and encoding.kind != "dense"):
            return f"meets '{site.weight}' in {_where(site)}, whose values cannot be changed"
    return None


def why_not(group: Group, model: Model) -> str | None:
    """Return why μ of a group's gates could not be folded, None where it can be.

    Args:
        group: of ``model``.
        model: the analysed model.
    """
    why = why_no_gate(group, model)
    if why is not None:
        return why
    for site in group.sites:
        where = _where(site)
        if site.weight is None or site.weight_axis is None:
            return f"is summed over by {where} without a weight of its own"
        weight = model.weights[site.weight]
        if len(_along(group, site)) != weight.shape[site.weight_axis]:
            return f"meets '{site.weight}' in {where} in an unknown order"
        reading = {
            s.node for s in group.sites if s.weight == site.weight and s.weight_axis == site.weight_axis
        }
        nodes = [node for node, _ in readers(weight.value)]
        # twice by one node: a recurrent layer whose state meets the same weight, for one
        if not set(nodes) <= reading or len(set(nodes)) < len(nodes):
            return f"meets '{site.weight}', which is used elsewhere too"
    return None


def _where(site: Site) -> str:
    return f"{site.node.op_type} '{site.node.name or site.node.outputs[0].name}'"


def _along(group: Group, site: Site) -> Array:
    """Return the channel of each position of the stored weight's axis.

    It may be another than along the operand: the groups of a convolution read the same slices, and a weight
    may be stored with the axis merged with others, or in another order.
    """
    for member in group.members:
        if (member.tensor, member.axis) == (site.weight, site.weight_axis) and member.consumes:
            return member.channel_of
    return site.channel_of


def folded(
    groups: Sequence[Group], means: Mapping[str, Array], arrays: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the weights with the gates' means folded in.

    Args:
        groups: for which :func:`why_not` returned None.
        means: group name -> μ of each channel; 1 where there was no gate.
        arrays: weight name -> value; those needed must be there.
    """
    found: dict[str, Array] = {}
    for group in groups:
        done = set()
        for site in group.sites:
            assert site.weight is not None
            assert site.weight_axis is not None
            # Two nodes that share a weight see the same product; it is taken once.
            if (site.weight, site.weight_axis) in done:
                continue
            done.add((site.weight, site.weight_axis))
            array = found.get(site.weight, arrays[site.weight])
            channel_of, axis = _along(group, site), site.weight_axis
            factors = np.where(channel_of >= 0, means[group.name][channel_of], 1.0)
            shape = [len(factors) if k == axis else 1 for k in range(array.ndim)]
            found[site.weight] = (array.astype(np.float64) * factors.reshape(shape)).astype(array.dtype)
    return found
