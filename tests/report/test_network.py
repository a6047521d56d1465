"""The picture of a network: what goes into one box, where boxes go, and what is drawn."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from example import channels, inspect, pruned
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.core.channel_facts import ChannelFacts, GroupFacts, NodeFacts
from onnxcompress.report.network.collapse import Bundle, collapsed
from onnxcompress.report.network.drawing import network
from onnxcompress.report.network.layout import BOX_HEIGHT, BOX_WIDTH, pieces, placed
from onnxcompress.report.sections import _channels
from onnxcompress.report.tree import Network

SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def graphs(draw: st.DrawFn, most: int = 40) -> tuple[NodeFacts, ...]:
    """Any acyclic graph: inputs, layers, other operators, outputs."""
    nodes: list[NodeFacts] = []
    for number in range(draw(st.integers(1, most))):
        reads = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        layer = draw(st.booleans())
        operator = draw(st.sampled_from(["Conv", "Relu", "Add", "input", "output"])) if reads else "input"
        nodes.append(NodeFacts(f"n{number}", operator, tuple(sorted(reads)), (), layer, 1))
    return tuple(nodes)


def check(nodes: tuple[NodeFacts, ...], bundles: tuple[Bundle, ...]) -> None:
    """Every node is in one box; boxes read what their nodes read, and only boxes before them."""
    assert sorted(n for b in bundles for n in b.nodes) == list(range(len(nodes)))
    owner = {n: i for i, b in enumerate(bundles) for n in b.nodes}
    for place, bundle in enumerate(bundles):
        wanted = {owner[r] for n in bundle.nodes for r in nodes[n].reads} - {place}
        assert set(bundle.reads) == wanted
        assert all(r < place for r in bundle.reads)


@given(graphs(), st.integers(1, 50))
def test_boxes_hold_every_node_once_and_have_no_cycle(nodes: tuple[NodeFacts, ...], most: int) -> None:
    bundles = collapsed(nodes, most)
    check(nodes, bundles)
    starts = sum(not n.reads for n in nodes)
    assert len(bundles) <= max(most, starts)


def titles(facts: ChannelFacts, most: int = 100) -> list[str]:
    return [" ".join(facts.nodes[n].operator for n in b.nodes) for b in collapsed(facts.nodes, most)]


def test_what_only_follows_a_layer_goes_into_its_box() -> None:
    assert titles(channels()) == [
        "input",
        "Conv Relu",
        "Conv BatchNormalization Sigmoid Mul",
        "Conv",
        "Add",
        "Concat",
        "Gemm LayerNormalization com.example.Mystery",
        "Gemm",
        "output",
    ]


def test_a_layer_is_never_hidden_while_there_is_room() -> None:
    nodes = channels().nodes
    for bundle in collapsed(nodes, 100):
        assert sum(nodes[n].layer for n in bundle.nodes) <= 1


def test_fewer_boxes_where_there_are_too_many() -> None:
    facts = channels()
    assert len(titles(facts, 6)) == 6
    assert titles(facts, 6)[0] == "input"
    assert len(titles(facts, 1)) == 1


@settings(deadline=None)
@given(graphs(60))
def test_boxes_do_not_touch_and_edges_meet_them(nodes: tuple[NodeFacts, ...]) -> None:
    reads = [b.reads for b in collapsed(nodes, 60)]
    layout = placed(reads, 1008.0)
    for x, y in layout.boxes:
        assert x >= 0
        assert y >= 0
        assert x + BOX_WIDTH <= layout.width + 0.01
        assert y + BOX_HEIGHT <= layout.height + 0.01
    for (x, y), (a, b) in pairwise(sorted(layout.boxes, key=lambda box: (box[1], box[0]))):
        assert y != b or a - x >= BOX_WIDTH
    tops = {(round(x + BOX_WIDTH / 2, 3), round(y, 3)) for x, y in layout.boxes}
    ends = {(round(p[-1][0], 3), round(p[-1][1], 3)) for p in (line.points for line in layout.lines)}
    floors = {(x, round(y + BOX_HEIGHT, 3)) for x, y in tops}
    starts = {(round(p[0][0], 3), round(p[0][1], 3)) for p in (line.points for line in layout.lines)}
    for box, own in enumerate(reads):
        x, y = layout.boxes[box]
        assert ((round(x + BOX_WIDTH / 2, 3), round(y, 3)) in ends) == bool(own)
    # every edge starts below a box or goes on where a piece before it ended
    assert starts <= floors | ends
    assert len(layout.lines) <= pieces(reads)


def test_ranks_go_down_the_page_within_a_column() -> None:
    layout = placed([(), (0,), (1,), (0, 2)], 1008.0)
    heights = [y for _, y in layout.boxes]
    assert heights == sorted(heights)
    assert len(set(heights)) == 4


def test_a_long_chain_is_set_in_columns_that_fit_the_page() -> None:
    layout = placed([(), *((i,) for i in range(59))], 1008.0)
    columns = sorted({round(x) for x, _ in layout.boxes})
    assert len(columns) > 3
    assert layout.width <= 1008
    assert layout.height < 60 * 50 / 3
    assert len(layout.lines) == 59


def dense(blocks: tuple[int, ...]) -> ChannelFacts:
    """A DenseNet: every layer of a block reads all before it."""
    groups: list[GroupFacts] = []
    nodes = [NodeFacts("x", "input")]

    def add(operator: str, reads: tuple[int, ...], layer: bool = False) -> int:
        along = tuple(dict.fromkeys(g for r in reads for g in nodes[r].groups))
        if layer:
            along = (len(groups),)
            groups.append(GroupFacts(f"features.denseblock.layer{len(groups)}.weight", 32, (), 1, 1))
        nodes.append(NodeFacts(f"/features/{'very' * 10}/long{len(nodes)}", operator, reads, along, layer, 9))
        return len(nodes) - 1

    last = add("Conv", (0,), True)
    for layers in blocks:
        found = [last]
        for _ in range(layers):
            bottleneck = add("Conv", (add("Relu", (add("Concat", tuple(found)),)),), True)
            found.append(add("Conv", (bottleneck,), True))
        last = add("Conv", (add("Concat", tuple(found)),), True)
    return ChannelFacts(tuple(groups), tuple(nodes))


def residual(blocks: int) -> ChannelFacts:
    groups = tuple(GroupFacts(f"layer.{i}.weight", 64, (), 1, 1) for i in range(blocks))
    nodes = [NodeFacts("x", "input")]
    for i in range(blocks):
        start = len(nodes) - 1
        nodes += [
            NodeFacts(f"/layer.{i}/conv1", "Conv", (start,), (i,), True, 10),
            NodeFacts(f"/layer.{i}/relu", "Relu", (start + 1,), (i,)),
            NodeFacts(f"/layer.{i}/conv2", "Conv", (start + 2,), (0,), True, 10),
            NodeFacts(f"/layer.{i}/add", "Add", (start, start + 3), (0,)),
        ]
    return ChannelFacts(groups, tuple(nodes))


def drawn(facts: ChannelFacts) -> tuple[Network, str]:
    (plot,) = _channels.picture(replace(inspect(), channels=facts))
    assert isinstance(plot, Network)
    return plot, network(plot)


@pytest.mark.parametrize(
    "facts",
    [residual(16), residual(1500), dense((6, 12, 24, 16)), dense((6, 12, 48, 32))],
    ids=["residual", "6000 nodes", "DenseNet-121", "DenseNet-201"],
)
def test_large_networks_stay_small_pictures(facts: ChannelFacts) -> None:
    plot, svg = drawn(facts)
    assert len(plot.boxes) <= 220
    assert len(svg.encode()) < 300_000
    assert len(plot.boxes) >= 25


def elements(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_the_drawing_says_in_words_what_it_shows() -> None:
    plot, svg = drawn(channels())
    root = elements(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label", "").startswith("Drawing of the network")
    assert root.find(f"{SVG}desc") is not None
    boxes = root.findall(f"{SVG}g")
    assert len(boxes) == len(plot.boxes) == 9
    told = [b.findtext(f"{SVG}title") or "" for b in boxes]
    assert "Conv /stem/Conv\nRelu /stem/Relu" in told[1]
    assert "Group #1 stem.weight: 64 channels" in told[1]
    assert "kept because it meets values" in told[6]


def test_stripes_show_the_fraction_that_is_kept() -> None:
    (plot,) = _channels.picture(pruned())
    assert isinstance(plot, Network)
    stem = elements(network(plot)).findall(f"{SVG}g")[1]
    whole, kept = (r for r in stem.findall(f"{SVG}rect") if r.get("class") != "rim")
    assert whole.get("class", "").split()[-1] == "gone"
    assert float(kept.get("width", "")) == pytest.approx(float(whole.get("width", "")) / 2)
    assert plot.boxes[1].line == "#1 · 32 of 64"


def test_frozen_groups_are_grey_and_neighbours_differ() -> None:
    facts = dense((6, 12))
    colours = _channels.hues(facts)
    assert None not in colours
    for node in facts.nodes:
        near = {*node.groups[:8]}
        assert len({colours[g] for g in near}) == len(near) or len(near) > 8
    assert [c is None for c in _channels.hues(channels())] == [bool(g.frozen) for g in channels().groups]


def test_colours_are_those_the_page_defines() -> None:
    from pathlib import Path

    from onnxcompress import report

    css = (Path(report.__file__).parent / "templates/report.css").read_text()
    for hue in range(_channels.HUES):
        assert len(re.findall(rf"--g{hue}: #[0-9a-f]{{6}}", css)) == 2  # light and dark
        assert f".g{hue} {{ --hue: var(--g{hue}); }}" in css


def test_names_that_are_markup_are_escaped() -> None:
    facts = channels()
    nasty = tuple(replace(n, name="<script>&\"'\x1b[2J</title>", operator="<b>") for n in facts.nodes)
    _, svg = drawn(replace(facts, nodes=nasty))
    elements(svg)
    assert "<script" not in svg
    assert "\x1b" not in svg


def test_nothing_is_drawn_of_what_was_not_traced() -> None:
    assert _channels.picture(replace(inspect(), channels=ChannelFacts())) == ()
    assert _channels.picture(replace(inspect(), channels=None)) == ()
