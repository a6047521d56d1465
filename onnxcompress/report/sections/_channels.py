"""Questions that sections ask of channel groups, and the picture of the network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxcompress.core.channel_facts import ChannelFacts, CutFacts, GroupFacts, NodeFacts
from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.network.collapse import ENDS, Bundle, collapsed
from onnxcompress.report.network.layout import pieces
from onnxcompress.report.tree import Band, Block, Box, Column, Names, Network, Quantity, Table

HUES = 10
"""Colours of the page that groups take turns with; neighbours never share one if that can be had."""

MOST_BOXES, MOST_PIECES = (220, 150, 100, 60, 30), 2000
"""A drawing has at most so many boxes: the first of these with which its edges are not too many to follow."""

MOST_BANDS, MOST_NUMBERS, MOST_TOLD, NAME_LENGTH, REASON_LENGTH = 8, 3, 6, 60, 160

SHORT = {
    "BatchNormalization": "BatchNorm",
    "InstanceNormalization": "InstanceNorm",
    "LayerNormalization": "LayerNorm",
    "SimplifiedLayerNormalization": "RMSNorm",
    "GroupNormalization": "GroupNorm",
    "GlobalAveragePool": "GlobalPool",
    "GlobalMaxPool": "GlobalPool",
    "DequantizeLinear": "Dequantize",
    "QuantizeLinear": "Quantize",
}

GATED = {"Sigmoid": "SiLU", "HardSigmoid": "HardSwish"}
"""What an activation is called of which a multiplication with its own input is the second half."""

QUIET = frozenset(
    [
        "Cast",
        "Identity",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Slice",
        "Gather",
        "Dropout",
    ]
)
"""Operators that a box's title leaves out where there is another to name."""

_QUOTED = re.compile(r"'[^']*'")
_ALSO = "; it also "


@dataclass(frozen=True)
class Kept:
    """How many channels of a group stay after all methods, of how many before the first."""

    kept: int
    of: int
    mixed: bool

    @property
    def fraction(self) -> float:
        """Channels that stay, as a fraction."""
        return self.kept / self.of if self.of else 1.0


def cut_groups(cuts: Sequence[CutFacts]) -> dict[str, Kept]:
    """Return group name -> what is left of it; a group that two methods cut counts once."""
    found: dict[str, Kept] = {}
    for cut in cuts:
        for group in cut.groups:
            before = found.get(group.name)
            of = before.of if before is not None else group.of
            mixed = group.mixed or (before is not None and before.mixed)
            found[group.name] = Kept(group.kept, of, mixed)
    return found


def frozen(channels: ChannelFacts) -> tuple[GroupFacts, ...]:
    """Return the groups that cannot be cut."""
    return tuple(g for g in channels.groups if g.frozen)


def untouched(run: Run) -> tuple[GroupFacts, ...]:
    """Return the groups that cannot be cut, but for those that a method chose from all the same.

    Those are values of an input: of them gates may choose, even if all stay in the end.
    """
    if run.channels is None:
        return ()
    found = (m.training.bottleneck for m in run.methods if m.training is not None)
    gated = {h.group for bottleneck in found if bottleneck is not None for h in bottleneck.histograms}
    chosen = gated | set(cut_groups(run.cuts))
    return tuple(g for g in frozen(run.channels) if g.name not in chosen)


def by_reason(groups: Sequence[GroupFacts]) -> dict[str, list[GroupFacts]]:
    """Return groups by why they are kept; reasons that differ in names only are one, without the names."""
    merged: dict[str, list[GroupFacts]] = {}
    for group in groups:
        told = dict.fromkeys(_QUOTED.sub("…", reason) for reason in group.frozen)
        merged.setdefault(_ALSO.join(told), []).append(group)
    # A reason that all its groups share to the letter keeps its names.
    return {why(g[0]) if len({why(one) for one in g}) == 1 else key: g for key, g in merged.items()}


def why(group: GroupFacts) -> str:
    """Return all reasons for which a group is kept, in words that follow "because it"."""
    return _ALSO.join(group.frozen)


def kept_whole(groups: Sequence[GroupFacts], *, merged: bool) -> Table | None:
    """Return groups that cannot be cut with their reasons, one row a reason or a group."""
    if not groups:
        return None
    if merged:
        rows = tuple(
            (
                Names(tuple(g.name for g in found)),
                fmt.count(len(found)),
                fmt.count(sum(g.size for g in found)),
                reason,
            )
            for reason, found in by_reason(groups).items()
        )
        caption = "Groups that are kept whole, by reason"
    else:
        rows = tuple((Names((g.name,)), Quantity("1"), fmt.count(g.size), why(g)) for g in groups)
        caption = f"{fmt.plural(len(groups), 'group')} kept whole, with every reason"
    columns = (
        Column("Group", "channel_group"),
        Column("Groups", numeric=True),
        Column("Channels", numeric=True),
        Column("Kept because it"),
    )
    return Table(caption, columns, rows, long=len(rows) > 12)


def hues(channels: ChannelFacts) -> tuple[int | None, ...]:
    """Return a colour for each group, None for frozen ones: as far as possible not that of a neighbour."""
    beside: list[set[int]] = [set() for _ in channels.groups]
    for node in channels.nodes:
        near = {*node.groups, *(g for r in node.reads for g in channels.nodes[r].groups)}
        for one in near:
            beside[one] |= near - {one}
    found: list[int | None] = []
    for place, group in enumerate(channels.groups):
        used = Counter(h for h in found if h is not None)
        taken = {found[g] for g in beside[place] if g < place}
        choice = min(range(HUES), key=lambda h: (h in taken, used[h], h))
        found.append(None if group.frozen else choice)
    return tuple(found)


def picture(run: Run) -> tuple[Block, ...]:
    """Return the network with its groups in colours; empty where it was not looked at."""
    channels = run.channels
    if channels is None or not channels.nodes:
        return ()
    kept, colours = cut_groups(run.cuts), hues(channels)
    bundles: tuple[Bundle, ...] = ()
    for most in MOST_BOXES:
        bundles = collapsed(channels.nodes, most)
        if pieces([b.reads for b in bundles]) <= MOST_PIECES:
            break
    boxes = tuple(_box(channels, bundle, kept, colours) for bundle in bundles)
    own = len(channels.nodes) - sum(n.operator in ENDS for n in channels.nodes)
    caption = (
        f"The network: {fmt.plural(own, 'operator')} in {fmt.plural(len(boxes), 'box', 'boxes')}. "
        "One colour and number is one channel group; grey channels cannot be cut; a box without colour has "
        "none that are known."
    )
    if kept:
        caption += " The strong part of a box is the fraction of its channels that is kept."
    told = "; ".join(_part(channels, place, kept) for place in range(len(channels.groups))[:40])
    alt = f"Drawing of the network, from inputs at the top to outputs. Groups: {told or 'none'}."
    return (Network(caption, alt, boxes),)


def _part(channels: ChannelFacts, place: int, kept: Mapping[str, Kept]) -> str:
    """Return a group in a few words: number, channels, how many are kept."""
    group = channels.groups[place]
    left = kept.get(group.name)
    amount = f"{left.kept:,} of {left.of:,}" if left is not None else f"{group.size:,}"
    return f"#{place + 1} {amount}{' (cannot be cut)' if group.frozen else ''}"


def _box(
    channels: ChannelFacts, bundle: Bundle, kept: Mapping[str, Kept], colours: Sequence[int | None]
) -> Box:
    nodes = [channels.nodes[n] for n in bundle.nodes]
    places = tuple(dict.fromkeys(g for node in nodes for g in node.groups))
    groups = [channels.groups[p] for p in places]
    bands = [
        Band(colours[p], kept[g.name].fraction if g.name in kept else 1.0)
        for p, g in zip(places, groups, strict=True)
    ]
    if len(places) == 1:
        line = _amount(groups[0], places[0], kept)
    else:
        line = ", ".join(f"#{p + 1}" for p in places[:MOST_NUMBERS])
        line += f" + {len(places) - MOST_NUMBERS}" if len(places) > MOST_NUMBERS else ""
    end = nodes[0].operator in ENDS
    title = fmt.shortened(nodes[0].name, 15) if end else _title(nodes)
    if end:
        line = f"{nodes[0].operator}{f' · {line}' if line else ''}"
    told = tuple(_told(channels, nodes, places, kept))
    return Box(title, line, told, tuple(bands[:MOST_BANDS]), bundle.reads, end)


def _amount(group: GroupFacts, place: int, kept: Mapping[str, Kept]) -> str:
    left = kept.get(group.name)
    return f"#{place + 1} · {f'{left.kept:,} of {left.of:,}' if left else f'{group.size:,}'}"


def _title(nodes: Sequence[NodeFacts]) -> str:
    """Return what a box does: its layers first, what follows them as far as it fits."""
    loud = [n for n in nodes if n.layer] or [n for n in nodes if n.operator not in QUIET] or list(nodes)
    counts = Counter(_short(n.operator) for n in loud)
    title = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())
    if len(loud) == 1:
        after = [_short(n.operator) for n in nodes if n is not loud[0] and n.operator not in QUIET]
        for gate, known in GATED.items():
            if gate in after and "Mul" in after:
                after = [known if name == gate else name for name in after if name != "Mul"]
        for name in dict.fromkeys(after):
            if len(title) + len(name) > 15:
                break
            title += f" + {name}"
    return title


def _short(operator: str) -> str:
    name = operator.rsplit(".", 1)[-1]
    return SHORT.get(name, name)


def _told(
    channels: ChannelFacts, nodes: Sequence[NodeFacts], places: Sequence[int], kept: Mapping[str, Kept]
) -> Iterator[str]:
    """Yield lines with everything about a box."""
    for node in nodes[:MOST_TOLD]:
        yield f"{node.operator} {fmt.shortened(node.name, NAME_LENGTH)}"
    if len(nodes) > MOST_TOLD:
        yield f"and {len(nodes) - MOST_TOLD:,} more operators"
    macs = sum(n.macs or 0 for n in nodes)
    if macs:
        yield fmt.large(macs, "MACs").text
    for place in places[:MOST_TOLD]:
        group = channels.groups[place]
        left = kept.get(group.name)
        amount = f"{left.kept:,} of {left.of:,} channels kept" if left else fmt.plural(group.size, "channel")
        reason = f"; kept because it {fmt.shortened(why(group), REASON_LENGTH)}" if group.frozen else ""
        yield f"Group #{place + 1} {fmt.shortened(group.name, NAME_LENGTH)}: {amount}{reason}"
