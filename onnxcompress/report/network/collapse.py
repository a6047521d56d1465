"""From the nodes of a graph to boxes that fit a page: what only follows a layer goes into its box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxcompress.core.channel_facts import NodeFacts

ENDS = frozenset(["input", "output"])


@dataclass(frozen=True)
class Bundle:
    """Nodes that share a box.

    Attributes:
        nodes: their places in the graph, ascending.
        reads: places of the boxes it reads, each below its own.
    """

    nodes: tuple[int, ...]
    reads: tuple[int, ...]


def collapsed(nodes: Sequence[NodeFacts], most: int) -> tuple[Bundle, ...]:
    """Return at most ``most`` boxes, in an order in which they can run.

    A node without weights that reads one box alone goes into it. Where that leaves too many, boxes are put
    together with the one they read, those with the least work first; then with the last of those they read.
    Two boxes are only ever joined if no third lies on a way between them, so the result has no cycle.
    """
    owner = _followed(nodes)
    bundles = _bundles(nodes, owner)
    for alone in (True, False):
        while len(bundles) > most:
            joined = _joined(nodes, bundles, alone, len(bundles) - most)
            if not joined:
                break
            target = dict(joined)
            for box, bundle in enumerate(bundles):
                for node in bundle.nodes:
                    owner[node] = target.get(box, box)
            bundles = _bundles(nodes, owner)
    return bundles


def _followed(nodes: Sequence[NodeFacts]) -> list[int]:
    """Return for each node the number of its box: that of what it reads, or its own."""
    owner: list[int] = []
    for number, node in enumerate(nodes):
        read = {owner[r] for r in node.reads}
        into = next(iter(read)) if len(read) == 1 else None
        follows = into is not None and not node.layer and node.operator not in ENDS
        starts = into is None or nodes[into].operator in ENDS
        owner.append(into if follows and not starts and into is not None else number)
    return owner


def _bundles(nodes: Sequence[NodeFacts], owner: Sequence[int]) -> tuple[Bundle, ...]:
    """Number the boxes anew, in the order of their old numbers."""
    place = {box: i for i, box in enumerate(sorted(set(owner)))}
    held: list[list[int]] = [[] for _ in place]
    reads: list[set[int]] = [set() for _ in place]
    for number, node in enumerate(nodes):
        box = place[owner[number]]
        held[box].append(number)
        reads[box].update(place[owner[r]] for r in node.reads)
    return tuple(
        Bundle(tuple(own), tuple(sorted(read - {box})))
        for box, (own, read) in enumerate(zip(held, reads, strict=True))
    )


def _joined(
    nodes: Sequence[NodeFacts], bundles: Sequence[Bundle], alone: bool, most: int
) -> list[tuple[int, int]]:
    """Return pairs (box, the last box it reads) to join, no box in two of them.

    Args:
        nodes: of the graph.
        bundles: the boxes.
        alone: only boxes that read one box, neither of the two an input or output of the model.
        most: as many pairs at most.
    """
    work = [sum(nodes[n].macs or 0 for n in b.nodes) for b in bundles]
    ends = [any(nodes[n].operator in ENDS for n in b.nodes) for b in bundles]
    pairs = [
        (work[box] + work[b.reads[-1]], box, b.reads[-1])
        for box, b in enumerate(bundles)
        if b.reads and not (alone and (len(b.reads) > 1 or ends[box] or ends[b.reads[-1]]))
    ]
    taken: set[int] = set()
    found = []
    for _, box, into in sorted(pairs):
        if not taken & {box, into}:
            taken |= {box, into}
            found.append((box, into))
    return found[:most]
