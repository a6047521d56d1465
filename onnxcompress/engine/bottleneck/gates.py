"""Gates: every channel of a group is multiplied by ``μ + ε σ``, ε drawn anew for each example.

Dai, Zhu, Guo, Wipf (2018), Compressing neural networks using the variational information bottleneck, eq. 5.
The gates sit where a group's channels are read (its sites): a channel whose gate is zero has no effect,
whatever lies before it. All sites of a group see the same number.

A weight that makes or reads a channel may shrink as μ does, and the noise with it. So μ can stay 1 where no
weight could take it in at the end; α is 1/σ² then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxcompress.core.channels import Group, Site
from onnxcompress.core.encoding import Array

MEAN, MEAN_SPREAD = 1.0, 0.01
LOG_VARIANCE, LOG_VARIANCE_SPREAD = -9.0, 0.01
"""Where μ and log σ² start (the authors' code)."""


class Gate(nn.Module):
    """The gates of one group.

    Args:
        size: number of channels.
        generator: draws the initial values.
        fixed: whether μ is 1 and stays so.

    Attributes:
        mean: μ, one a channel; not trained where it is fixed.
        log_variance: log σ², one a channel.
        kept: which channels stay, as zeros and ones.
    """

    kept: torch.Tensor

    def __init__(self, size: int, generator: np.random.Generator, *, fixed: bool = False) -> None:
        super().__init__()
        means = MEAN + MEAN_SPREAD * generator.standard_normal(size)
        variances = LOG_VARIANCE + LOG_VARIANCE_SPREAD * generator.standard_normal(size)
        means = np.ones(size) if fixed else means
        self.mean = nn.Parameter(torch.from_numpy(means.astype(np.float32)), requires_grad=not fixed)
        self.log_variance = nn.Parameter(torch.from_numpy(variances.astype(np.float32)))
        self.register_buffer("kept", torch.ones(size))

    @torch.no_grad()
    def start(self, log_variance: Array) -> None:
        """Set log σ² of each channel."""
        self.log_variance.copy_(torch.from_numpy(log_variance.astype(np.float32)))

    @torch.no_grad()
    def log_alpha(self) -> torch.Tensor:
        """Return log α = log μ²/σ² (eq. 11) of each channel."""
        return 2 * self.mean.abs().clamp_min(1e-30).log() - self.log_variance

    def values(self, examples: int | None) -> torch.Tensor:
        """Return the factors, examples × channels; None: without noise, for one example."""
        if float(self.log_variance.detach()[0]) == -math.inf:
            return self.kept[None]  # settled: neither noise nor anything to learn
        if examples is None:
            return (self.mean * self.kept)[None]
        deviation = (self.log_variance / 2).exp()
        noise = torch.randn(examples, len(self.mean), device=self.mean.device)
        return (self.mean + noise * deviation) * self.kept


@dataclass(frozen=True)
class _Axis:
    """What multiplies one axis of one activation: for each position its column in the groups' factors."""

    axis: int
    groups: tuple[str, ...]
    columns: torch.Tensor | None


class Gates(nn.Module):
    """The gates of several groups, as hooks of a graph.

    Args:
        groups: those to gate.
        taps: site key -> name of the value that the site reads.
        key: gives a site's key.
        seed: of the initial values.
        sites: chooses the sites to gate.
        fixed: names of the groups whose μ is 1 and stays so.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        taps: Mapping[str, str],
        key: Callable[[Site], str],
        seed: int,
        sites: Callable[[Site], bool] = lambda site: True,
        *,
        fixed: Collection[str] = (),
    ) -> None:
        super().__init__()
        generator = np.random.default_rng([seed, 0x6A7E5])
        self.groups = tuple(groups)
        self._gates = nn.ModuleList(Gate(g.size, generator, fixed=g.name in fixed) for g in groups)
        self._numbers = {g.name: k for k, g in enumerate(groups)}
        places: dict[str, dict[int, list[tuple[Group, Site]]]] = {}
        for group in groups:
            for site in filter(sites, group.sites):
                places.setdefault(taps[key(site)], {}).setdefault(site.axis, []).append((group, site))
        self._places = {
            name: tuple(_columns(axis, parts) for axis, parts in axes.items())
            for name, axes in places.items()
        }
        self._examples: int | None = None
        self._drawn: dict[tuple[str, int | None], torch.Tensor] = {}
        self._example_axes: dict[str, list[int]] = {}
        self._seen: dict[str, list[torch.Tensor]] | None = None
        self._noted: set[str] = set()

    def __getitem__(self, name: str) -> Gate:
        gate = self._gates[self._numbers[name]]
        assert isinstance(gate, Gate)
        return gate

    def alphas(self) -> dict[str, Array]:
        """Return α of each channel by group."""
        # Beyond e^60 nothing depends on the value, and float64 holds its square.
        return {
            g.name: np.exp(self[g.name].log_alpha().double().clamp(-60, 60).cpu().numpy())
            for g in self.groups
        }

    def keep(self, masks: Mapping[str, Array]) -> None:
        """Close the gates of channels that do not stay; those of groups that are not named are open."""
        for group in self.groups:
            kept, mask = self[group.name].kept, masks.get(group.name, np.ones(group.size))
            kept.copy_(torch.from_numpy(mask.astype(np.float32)).to(kept.device))

    @torch.no_grad()
    def settle(self) -> None:
        """Set every μ to 1, after it went into the weights: what is left are masks."""
        for group in self.groups:
            self[group.name].mean.fill_(1.0)
            self[group.name].log_variance.fill_(-math.inf)

    @contextmanager
    def on(self, graph: nn.Module) -> Any:
        """Gate a graph for a while: with noise where a gradient is asked for, at the mean elsewhere."""
        hooks = graph.hooks
        assert isinstance(hooks, dict)
        for name in self._places:
            hooks[name] = lambda value, name=name: self._gated(name, value)
        before = graph.register_forward_pre_hook(self._new_call)
        try:
            yield
        finally:
            before.remove()
            for name in self._places:
                del hooks[name]

    @contextmanager
    def watched(self, seen: dict[str, list[torch.Tensor]]) -> Any:
        """Note for a while what comes into the gates: group name -> examples × channels of each call.

        Of a feature map it is one place, another for each example.
        """
        self._seen = seen
        try:
            yield
        finally:
            self._seen = None

    # inside ------------------------------------------------------------------------------------------------

    def _watch(self, place: _Axis, along: int | None, value: torch.Tensor) -> None:
        """Note what comes into the gates of one axis."""
        assert self._seen is not None
        count = self._examples or 1
        if along is None or value.shape[along] != count:
            return
        rows = value.detach().movedim((along, place.axis), (0, 1))
        rows = rows.reshape(*rows.shape[:2], -1)
        spots = torch.arange(count, device=rows.device) * 7919 % rows.shape[2]
        rows = rows[torch.arange(count, device=rows.device), :, spots]
        start = 0
        for name in place.groups:
            size = len(self[name].mean)
            columns = torch.arange(size) + start
            if place.columns is not None:
                at = {int(c): k for k, c in reversed(list(enumerate(place.columns.tolist())))}
                columns = torch.tensor([at.get(int(c), -1) for c in columns])
            start += size
            if name not in self._noted and bool((columns >= 0).all()):
                self._noted.add(name)
                self._seen.setdefault(name, []).append(rows[:, columns.to(rows.device)].cpu())

    def _new_call(self, graph: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Forget the noise of the last call."""
        self._drawn.clear()
        self._noted.clear()
        fed = [v for v in arguments[0].values() if isinstance(v, (torch.Tensor, np.ndarray)) and v.ndim > 0]
        self._examples = len(fed[0]) if fed else None

    def _gated(self, name: str, value: torch.Tensor) -> torch.Tensor:
        noisy = torch.is_grad_enabled()
        for place in self._places[name]:
            along = self._example_axis(f"{name}:{place.axis}", place.axis, value)
            if self._seen is not None:
                self._watch(place, along, value)
            rows = None if not noisy else (self._examples or 1) if along is not None else 1
            factors = self._factors(place, rows)
            value = value * _spread(factors, place.axis, along, value.shape).to(value.dtype)
        return value

    def _factors(self, place: _Axis, rows: int | None) -> torch.Tensor:
        """Return the factors of one axis, examples × positions."""
        parts = []
        for group in place.groups:
            if (group, rows) not in self._drawn:
                self._drawn[group, rows] = self[group].values(rows)
            parts.append(self._drawn[group, rows])
        if place.columns is None:
            return parts[0]
        whole = torch.cat([*parts, parts[0].new_ones(len(parts[0]), 1)], dim=1)
        return whole[:, place.columns.to(whole.device)]

    def _example_axis(self, name: str, channels: int, value: torch.Tensor) -> int | None:
        """Return the axis that counts examples: the first always divisible by their number.

        None where there is none: then all examples of a call see the same noise.
        """
        count = self._examples or 1
        axes = self._example_axes.get(name)
        if axes is None:
            axes = [a for a in range(value.dim()) if a != channels]
        axes = [a for a in axes if value.shape[a] % count == 0 and value.shape[a] > 0]
        self._example_axes[name] = axes
        return axes[0] if axes else None


def _columns(axis: int, parts: Iterable[tuple[Group, Site]]) -> _Axis:
    """Return for each position along an axis the column of its channel among the groups', ones at the end."""
    groups: list[Group] = []
    columns: Array | None = None
    width = 0
    for group, site in parts:
        own = np.where(site.channel_of >= 0, site.channel_of + width, -1)
        columns = own if columns is None else np.where(own >= 0, own, columns)
        groups.append(group)
        width += group.size
    assert columns is not None
    columns = np.where(columns < 0, width, columns)
    plain = len(groups) == 1 and np.array_equal(columns, np.arange(width))
    names = tuple(g.name for g in groups)
    return _Axis(axis, names, None if plain else torch.from_numpy(columns.astype(np.int64)))


def _spread(factors: torch.Tensor, axis: int, along: int | None, shape: torch.Size) -> torch.Tensor:
    """Return factors (examples × positions) in a shape that broadcasts to the activation's."""
    sizes = [1] * len(shape)
    sizes[axis] = factors.shape[1]
    if len(factors) == 1 or along is None:
        return factors.reshape(sizes)
    # Some values merge the example axis with another: 49 windows of each picture.
    repeated = shape[along] // len(factors)
    if repeated > 1:
        factors = factors.repeat_interleave(repeated, 0)
    sizes[along] = len(factors)
    return (factors if along < axis else factors.T).reshape(sizes)
