"""Dead channels: those that nothing would miss, proven from the weights or seen on all of the data.

A channel is dead if at each of its sites it is constant, or met by zeros of the weight only. One that is zero
leaves no trace; a constant that is not zero goes into the consumer's bias, where that is the same everywhere
(:mod:`onnxcompress.engine.bias_shift`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnxcompress.core.channels import Group, Site
from onnxcompress.core.encoding import Array
from onnxcompress.core.task import Task
from onnxcompress.engine.bias_shift import shift_of
from onnxcompress.engine.channels import Channels, site_key, tapped
from onnxcompress.engine.constancy import Constants, constants

_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class Dead:
    """The dead channels of one group.

    Attributes:
        channels: which are, bool (``group.size``).
        values: site key -> the constant of each position along the site's axis, where it is not zero.
        stuck: reason -> how many channels are constant, but cannot be cut for that reason.
    """

    channels: Array
    values: Mapping[str, Array] = field(default_factory=dict)
    stuck: Mapping[str, int] = field(default_factory=dict)

    def folded(self, group: Group) -> Array:
        """Return which channels leave a constant, bool (``group.size``)."""
        found = np.zeros(group.size, bool)
        for site in group.sites:
            values = self.values.get(site_key(site))
            if values is not None:
                found[site.channel_of[(values != 0) & (site.channel_of >= 0)]] = True
        return found & self.channels


def proven(channels: Channels, groups: Iterable[Group]) -> dict[str, Dead]:
    """Return group name -> the channels that are dead for every input."""
    states = constants(channels)

    def at(site: Site) -> Constants | None:
        data = site.node.inputs[site.slot]
        return None if data is None else states.get(data, {}).get(site.axis)

    return {g.name: _dead(channels, g, at) for g in groups}


def observed(
    channels: Channels,
    groups: Iterable[Group],
    task: Task,
    *,
    device: str = "cpu",
    deadline: float | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Dead] | None:
    """Return group name -> the channels that are dead on all training and validation examples.

    Args:
        channels: the analysed model.
        groups: whose channels to look at.
        task: the data.
        device: torch device.
        deadline: moment of ``time.monotonic`` after which nothing is concluded, and None returned.
        progress: told the fraction done.
    """
    groups = list(groups)
    sites = {site_key(s): s for g in groups for s in g.sites}
    ranges = _ranges(channels, sites, task, device=device, deadline=deadline, progress=progress)
    if ranges is None:
        return None

    def at(site: Site) -> Constants | None:
        found = ranges.get(site_key(site))
        if found is None:
            return None
        low, high = found
        return Constants(low == high, np.where(low == high, low, 0.0))

    return {g.name: _dead(channels, g, at) for g in groups}


def _dead(channels: Channels, group: Group, at: Callable[[Site], Constants | None]) -> Dead:
    dead = np.full(group.size, bool(group.sites) and not group.mixed)
    values: dict[str, Array] = {}
    for site in group.sites:
        own = site.channel_of >= 0
        unread = _unread(channels, site)
        found = at(site)
        known = np.zeros(len(own), bool) if found is None else found.known
        dead &= _all(site, known | unread, group.size)
        if found is not None:
            constant = np.where(own & known & ~unread, found.values, 0.0)
            if constant.any():
                values[site_key(site)] = constant
    return Dead(*_foldable(channels, group, dead, values))


def _foldable(
    channels: Channels, group: Group, dead: Array, values: Mapping[str, Array]
) -> tuple[Array, dict[str, Array], dict[str, int]]:
    """Take out channels whose constant no bias takes in; return (dead, constants, reasons)."""
    kept: dict[str, Array] = {}
    stuck: dict[str, int] = {}
    for site in group.sites:
        found = values.get(site_key(site))
        if found is None:
            continue
        going = np.where((site.channel_of >= 0) & dead[site.channel_of], found, 0.0)
        shift = shift_of(channels, site, going) if going.any() else None
        if isinstance(shift, str):
            left = np.zeros(group.size, bool)
            left[site.channel_of[going != 0]] = True
            stuck[shift] = stuck.get(shift, 0) + int(left.sum())
            dead = dead & ~left
    for site in group.sites:
        found = values.get(site_key(site))
        if found is not None:
            going = np.where((site.channel_of >= 0) & dead[site.channel_of], found, 0.0)
            if going.any():
                kept[site_key(site)] = going
    return dead, kept, stuck


def _all(site: Site, positions: Array, size: int) -> Array:
    """Return the channels of which all positions along the site's axis are set."""
    open_ = site.channel_of[(site.channel_of >= 0) & ~positions]
    result = np.ones(size, bool)
    result[open_] = False
    return result


def _unread(channels: Channels, site: Site) -> Array:
    """Return the positions that the weight at a site multiplies with nothing but zeros."""
    unread = np.zeros(len(site.channel_of), bool)
    if site.weight is None or site.weight_axis is None:
        return unread
    weight = np.moveaxis(channels.model.array(site.weight), site.weight_axis, 0)
    zero = ~(weight.reshape(len(weight), -1) != 0).any(axis=1)
    return zero if len(zero) == len(unread) else unread  # a grouped convolution repeats its positions


def _ranges(
    channels: Channels,
    sites: Mapping[str, Site],
    task: Task,
    *,
    device: str,
    deadline: float | None,
    progress: Callable[[float], None],
) -> dict[str, tuple[Array, Array]] | None:
    """Return site key -> the least and the largest value of each position, over all examples."""
    import torch  # noqa: PLC0415

    from onnxcompress.engine.graph.torchgraph import TorchGraph  # noqa: PLC0415
    from onnxcompress.engine.training.evaluation import Evaluator  # noqa: PLC0415
    from onnxcompress.engine.training.trainer import torch_device  # noqa: PLC0415

    model, taps = tapped(channels, sites.values())
    target = torch_device(device)
    graph = TorchGraph(model, device=target)
    low: dict[str, torch.Tensor] = {}
    high: dict[str, torch.Tensor] = {}

    def listen(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        axes = {key: site.axis for key, site in sites.items() if taps[key] == name}

        def hook(value: torch.Tensor) -> torch.Tensor:
            for key, axis in axes.items():
                flat = value.detach().movedim(axis, 0).reshape(value.shape[axis], -1)
                least, most = flat.amin(1), flat.amax(1)
                low[key] = torch.minimum(low[key], least) if key in low else least
                high[key] = torch.maximum(high[key], most) if key in high else most
            return value

        return hook

    evaluator = Evaluator(graph, _one(task), target, cache_bytes=0)
    graph.hooks.update({name: listen(name) for name in set(taps.values())})
    indices = np.union1d(task.train, task.validation)
    with torch.no_grad():
        for start in range(0, len(indices), _AT_ONCE):
            if deadline is not None and time.monotonic() >= deadline:
                return None
            evaluator.look(indices[start : start + _AT_ONCE])
            progress(min(1.0, (start + _AT_ONCE) / len(indices)))
    return {key: (low[key].double().cpu().numpy(), high[key].double().cpu().numpy()) for key in low}


def _one(task: Task) -> Task:
    """Return the task with few examples: only how to feed the graph is wanted of it."""
    return replace(task, train=task.train[:8], validation=task.validation[:1])
