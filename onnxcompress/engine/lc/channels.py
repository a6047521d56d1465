"""Group ℓ0 over channels: of every group the channels stay whose weights together are largest.

A channel's weights are the slices that make it and the slices that read it. All of them are zero where the
channel goes; since those that read it are, the network then computes what it does without the channel, and
surgery cuts it. An element of a weight belongs to the channel it makes and to the one it reads, and stays
where both do: which channels of a group are best depends on what stays of its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.encodings._base import Projection
from onnxcompress.encodings.dense import Dense
from onnxcompress.engine.bottleneck.folding import folded
from onnxcompress.engine.channels import Channels

Masks = dict[str, Array]
"""Group name -> which of its channels stay, bool."""

SWEEPS = 20
"""Rounds over the groups in one C step; a few are enough."""


@dataclass(frozen=True, eq=False)
class Slices:
    """Which channels of a group the elements of a weight make, or read.

    Attributes:
        weight: name.
        group: name.
        channel: int32, broadcast to the weight's shape: the channel of the group, −1 where there is none.
    """

    weight: str
    group: str
    channel: Array


def slices_of(groups: Sequence[Group], channels: Channels, layers: Sequence[str]) -> tuple[Slices, ...]:
    """Return the slices that hang on the groups' channels.

    Args:
        groups: those whose readers have weights (:func:`onnxcompress.engine.bottleneck.folding.why_not`).
        channels: the analysed model.
        layers: the weights that make channels; biases and scales are not among them.
    """
    found = []
    for group in groups:
        for member in group.members:
            if not member.consumes and member.tensor in layers:
                rank = len(channels.model.weights[member.tensor].shape)
                places = [len(member.channel_of) if k == member.axis else 1 for k in range(rank)]
                own = member.channel_of.astype(np.int32).reshape(places)
                found.append(Slices(member.tensor, group.name, own))
        read = dict.fromkeys(site.weight for site in group.sites if site.weight is not None)
        ones = {name: np.ones(channels.model.weights[name].shape) for name in read}
        # A factor of its own for every channel, from 2 on, marks the elements that read it.
        marked = folded([group], {group.name: np.arange(2.0, group.size + 2)}, ones)
        found += [Slices(n, group.name, np.rint(a).astype(np.int32) - 2) for n, a in marked.items()]
    return tuple(found)


def kept(slices: Sequence[Slices], arrays: Mapping[str, Array], sizes: Mapping[str, int]) -> Masks:
    """Return which channels have a weight that is not zero."""
    masks = {name: np.zeros(size, bool) for name, size in sizes.items()}
    for part in slices:
        found = np.broadcast_to(part.channel, arrays[part.weight].shape)[arrays[part.weight] != 0]
        masks[part.group][found[found >= 0]] = True
    return masks


@dataclass(frozen=True, eq=False)
class ChannelPruning(Projection):
    """Group ℓ0 constraint over channels (methods.md section 2, "group ℓ0 over channels").

    Attributes:
        weights: names, in the order in which they are projected.
        sizes: group name -> number of its channels.
        slices: what belongs to which channel.
        allocate: group name -> norm of each channel, to the masks that stay, groups that stay whole left out:
            decides how many of each group do.
    """

    weights: tuple[str, ...]
    sizes: Mapping[str, int]
    slices: tuple[Slices, ...]
    allocate: Callable[[Mapping[str, Array]], Mapping[str, Array]]

    def project(
        self,
        weights: Sequence[Array],
        *,
        mu: float | None = None,
        previous: Sequence[Encoding] | None = None,
    ) -> list[Encoding]:
        """Return the weights with the slices of all other channels set to zero.

        For the numbers of channels that ``allocate`` decides, no other choice in one group is closer.
        """
        arrays = dict(zip(self.weights, weights, strict=True))
        squares = {name: np.square(array.astype(np.float64)) for name, array in arrays.items()}
        masks = self._chosen(arrays, squares)
        if previous is not None:
            before = kept(self.slices, self._named([e.decode() for e in previous]), self.sizes)
            if all(before[n].sum() == masks[n].sum() for n in masks):
                warm = self._settled(before, squares)
                masks = max(masks, warm, key=lambda m: self._energy(m, squares))
        return [Dense(np.where(self._mask(n, masks), a, 0).astype(a.dtype)) for n, a in arrays.items()]

    def _named(self, arrays: Sequence[Array]) -> dict[str, Array]:
        return dict(zip(self.weights, arrays, strict=True))

    def _chosen(self, arrays: Mapping[str, Array], squares: Mapping[str, Array]) -> Masks:
        alive = kept(self.slices, arrays, self.sizes)
        whole = {name: np.ones(size, bool) for name, size in self.sizes.items()}
        if not all(mask.all() for mask in alive.values()):
            norms = {n: np.sqrt(self._energies(n, whole, squares)) for n in self.sizes}
            wanted = {**whole, **self.allocate(norms)}
            if all(alive[n].sum() <= wanted[n].sum() for n in alive):  # it is of this form already
                return alive
        norms = {name: np.sqrt(self._energies(name, whole, squares)) for name in self.sizes}
        return self._settled({**whole, **self.allocate(norms)}, squares)

    def _settled(self, masks: Masks, squares: Mapping[str, Array]) -> Masks:
        """Choose the best channels of each group in turn, given those of the others, until none changes."""
        masks = dict(masks)
        for _ in range(SWEEPS):
            changed = False
            for name, mask in masks.items():
                if mask.all():
                    continue
                energies = self._energies(name, masks, squares)
                best = np.zeros(len(mask), bool)
                best[np.argsort(-energies, kind="stable")[: int(mask.sum())]] = True
                if energies[best].sum() > energies[mask].sum() * (1 + 1e-12):
                    masks[name], changed = best, True
            if not changed:
                break
        return masks

    def _energies(self, group: str, masks: Masks, squares: Mapping[str, Array]) -> Array:
        """Return for each channel Σ w² over its elements that stay as far as the other groups go."""
        total = np.zeros(self.sizes[group])
        own: dict[str, list[Slices]] = {}
        for part in self.slices:
            if part.group == group:
                own.setdefault(part.weight, []).append(part)
        for weight, parts in own.items():
            left = squares[weight] * self._mask(weight, {n: m for n, m in masks.items() if n != group})
            for part in parts:
                ids = np.broadcast_to(part.channel, left.shape)
                here = ids >= 0
                total += np.bincount(ids[here], left[here], len(total))
        return total

    def _mask(self, weight: str, masks: Masks) -> Array:
        """Return where a weight stays."""
        stay = np.ones(1, bool)
        for part in self.slices:
            if part.weight == weight and part.group in masks:
                stay = stay & np.append(masks[part.group], True)[part.channel]
        return stay

    def _energy(self, masks: Masks, squares: Mapping[str, Array]) -> float:
        return sum(float((s * self._mask(n, masks)).sum()) for n, s in squares.items())
