"""dead: channels that nothing would miss are cut, with no loss."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxcompress.core.errors import UsageError
from onnxcompress.methods._base import METHODS, Method, Needs, option

if TYPE_CHECKING:
    from onnxcompress.core.channels import Group
    from onnxcompress.core.encoding import Array
    from onnxcompress.core.model import Model
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task
    from onnxcompress.engine.channels import Channels
    from onnxcompress.engine.dead import Dead


@METHODS.register("dead")
@dataclass(frozen=True)
class DeadChannels(Method):
    """Cuts channels that are constant for every input, as their weights prove, or on all of the data.

    Raises:
        UsageError: an option is out of range.
    """

    name: ClassVar[str] = "dead"
    source: ClassVar[str] = "W x = W x|_{x_j = 0} + W[:, j] c_j for a channel x_j that is always c_j"
    needs: ClassVar[Needs] = Needs.NOTHING
    summary: ClassVar[str] = "cuts channels that have no effect: all-zero filters and, with data, dead units"

    observe: bool = option(True, "With data, cut channels too that are constant on all of it.")
    round_to: int = option(
        4, "Widths are rounded up to a multiple of this by dead channels that stay; 1 cuts all of them."
    )

    def __post_init__(self) -> None:
        if self.round_to not in (1, 2) and (self.round_to < 1 or self.round_to % 4):
            raise UsageError("--round-to must be 1, 2 or a multiple of 4", why=f"found {self.round_to}")

    def plan(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        """Find dead channels; raises UsageError where the device is not there."""
        from onnxcompress.core.plan import Plan  # noqa: PLC0415
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.channels import analyse  # noqa: PLC0415
        from onnxcompress.engine.dead import proven  # noqa: PLC0415

        channels = analyse(model, resources.input_shapes)
        found = proven(channels, channels.free)
        seen, warnings = self._seen(channels, task, resources)
        keep, constants, only_seen = {}, {}, 0
        refusals = [
            Refusal(g.name, f"is kept because it {'; '.join(g.frozen)}") for g in channels.groups if g.frozen
        ]
        refusals += channels.out_of_reach
        for group in channels.free:
            dead = seen.get(group.name, found[group.name])
            mask = _kept(group, dead, self.round_to)
            refusals += [Refusal(group.name, why) for why in _reasons(group, dead, mask, bool(seen))]
            if not mask.all():
                keep[group.name] = mask
                constants.update(_leaving(group, dead, mask))
                only_seen += int((~mask & ~found[group.name].channels).sum())
        if only_seen:
            assert task is not None
            count = len(task.train) + len(task.validation)
            warnings.append(
                f"{only_seen} of the channels that are cut are dead on the given data only ({count} "
                "examples); other inputs may need them: --no-observe cuts what the weights prove"
            )
        return Plan(keep=keep, constants=constants, refusals=tuple(refusals), warnings=tuple(warnings))

    def _seen(
        self, channels: Channels, task: Task | None, resources: Resources
    ) -> tuple[dict[str, Dead], list[str]]:
        """Return what is dead on the data, where there is any to be believed."""
        from onnxcompress.engine.dead import observed  # noqa: PLC0415

        if task is None or not self.observe:
            return {}, []
        if task.random:
            return {}, ["random numbers prove no channel dead; only what the weights prove is cut"]
        limit = resources.max_time_s
        found = observed(
            channels,
            channels.free,
            task,
            device=resources.device,
            deadline=None if limit is None else time.monotonic() + limit,
            progress=lambda f: resources.progress(f, "looking for dead channels in all examples", None),
        )
        if found is None:
            return {}, ["the time was up before all examples were seen; only what the weights prove is cut"]
        return found, []


def _kept(group: Group, dead: Dead, round_to: int) -> Array:
    """Return which channels stay: the living, and as many dead ones as a width that is fast needs."""
    import numpy as np  # noqa: PLC0415

    from onnxcompress.engine.widths import widths_of  # noqa: PLC0415

    alive = ~dead.channels
    allowed = widths_of(group, round_to)
    width = int(allowed[np.searchsorted(allowed, max(1, int(alive.sum())))])
    # Dead channels that leave a constant stay first: nothing has to be folded for them.
    order = np.lexsort((np.arange(group.size), ~dead.folded(group), ~alive))
    mask = np.zeros(group.size, bool)
    mask[order[:width]] = True
    return mask


def _leaving(group: Group, dead: Dead, mask: Array) -> dict[str, Array]:
    """Return the constants of the channels that are cut, by site."""
    import numpy as np  # noqa: PLC0415

    from onnxcompress.engine.channels import site_key  # noqa: PLC0415

    found = {}
    for site in group.sites:
        values = dead.values.get(site_key(site))
        if values is not None:
            going = np.where((site.channel_of >= 0) & ~mask[site.channel_of], values, 0.0)
            if going.any():
                found[site_key(site)] = going
    return found


def _reasons(group: Group, dead: Dead, mask: Array, seen: bool) -> list[str]:
    """Say what of a group stays, and why."""
    told = [
        f"has {n} channels that are constant, but not zero, and stay: {why}" for why, n in dead.stuck.items()
    ]
    left = int((mask & dead.channels).sum())
    if left:
        told.append(f"keeps {left} dead channels: without them its width would be slow")
    if group.mixed:
        told.append("is normalised over together, so that even a constant channel counts")
    elif mask.all() and not told:
        told.append("has no dead channel" + ("" if seen else " that its weights would prove"))
    return told
