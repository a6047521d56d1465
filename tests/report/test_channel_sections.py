"""What the sections say of channel groups and of cuts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from example import channels, compress, inspect, pruned, untraced
from test_sections import said, section, warned

from onnxcompress.core.channel_facts import GroupFacts
from onnxcompress.report import render
from onnxcompress.report.document import document
from onnxcompress.report.sections import _channels
from onnxcompress.report.sections._base import SECTIONS
from onnxcompress.report.tree import Callout, Chip, Figures, Meter, Name, Names, Quantity, Table


def table(blocks: tuple[object, ...], caption: str) -> Table:
    return next(b for b in blocks if isinstance(b, Table) and b.caption.startswith(caption))


def test_a_group_that_two_methods_cut_counts_once() -> None:
    kept = _channels.cut_groups(pruned().cuts)
    assert {name: (k.kept, k.of, k.mixed) for name, k in kept.items()} == {
        "stem.weight": (32, 64, False),
        "norm.weight": (24, 32, True),
    }


def test_totals_go_from_before_the_first_cut_to_after_the_last() -> None:
    rows = table(section(pruned(), "cuts"), "Before and after").rows
    shown = [tuple(getattr(c, "exact", None) or getattr(c, "text", "") for c in row[1:3]) for row in rows]
    assert shown == [("96", "56"), ("266,610", "150,000"), ("266,200", "120,000")]
    meters = [cell for row in rows for cell in row if isinstance(cell, Meter)]
    assert [m.fraction for m in meters] == [56 / 96, 150_000 / 266_610, 120_000 / 266_200]


def test_each_group_shows_what_is_kept() -> None:
    rows = table(section(pruned(), "cuts"), "2 channel groups cut").rows
    assert [(r[0], r[1]) for r in rows] == [
        (Chip("#1", 0), Name("stem.weight")),
        (Chip("#3", _channels.hues(channels())[2]), Name("norm.weight")),
    ]
    assert [getattr(r[-1], "text", r[-1]) for r in rows] == ["", "mixed"]


def test_the_proof_is_told_with_its_numbers() -> None:
    blocks = section(pruned(), "cuts")
    text = said(blocks)
    for words in (
        "3.1·10⁻¹⁴",
        "over 14 places",
        "2.2·10⁻¹²",
        "4.4·10⁻⁷",
        "allowed 0.0001",
        "equal to rounding",
    ):
        assert words in text
    assert "Method magnitude:" in text
    assert "Method dead:" in text
    levels = {b.title: b.level for b in blocks if isinstance(b, Callout)}
    assert levels == {"A normalisation sees fewer channels": "note", "Outputs that say nothing": "warning"}
    assert "by 3.10 % (relative error). That is a real change, not an error." in text
    one = replace(pruned(), cuts=pruned().cuts[1:])
    assert "Method dead:" not in said(section(one, "cuts"))
    assert "real change" not in said(section(one, "cuts"))


def test_a_proof_that_does_not_hold_is_marked() -> None:
    cut = pruned().cuts[0]
    wrong = replace(cut, proof=replace(cut.proof, ort_error=0.3))
    assert "FAILED" in said(section(replace(pruned(), cuts=(wrong,)), "cuts"))


def test_reasons_that_differ_in_names_alone_are_one_line() -> None:
    rows = table(section(pruned(), "cuts"), "Groups that are kept whole").rows
    assert rows[0][0] == Names(("a.weight", "c.weight"))
    assert rows[0][1:3] == (Quantity("2"), Quantity("24"))
    assert rows[0][3] == "meets values that are no channels of a layer in Add …"
    assert (
        rows[1][3]
        == "meets values that are no channels of a layer in Add 'Add_2'; it also reaches the output 'y'"
    )


def test_a_reason_is_said_once_however_many_nodes_it_names() -> None:
    both = ("meets no channels in Add 'a'", "meets no channels in Add 'b'", "reaches the output 'y'")
    groups = tuple(GroupFacts(n, 4, (), 0, 0, frozen=both[i:]) for i, n in enumerate("ab"))
    assert list(_channels.by_reason(groups)) == ["meets no channels in Add …; it also reaches the output …"]


def test_every_reason_is_told_on_request() -> None:
    rows = table(section(inspect(), "frozen"), "4 groups kept whole").rows
    assert [r[3] for r in rows[:3:2]] == [
        "meets values that are no channels of a layer in Add 'Add_1'",
        "meets values that are no channels of a layer in Add 'Add_7'",
    ]
    terminal = render(inspect(), "terminal")
    assert "Groups kept whole" in terminal  # this rendering is the verbose one


def test_the_same_reason_keeps_its_names() -> None:
    groups = tuple(GroupFacts(n, 4, (), 0, 0, frozen=("reaches the output 'y'",)) for n in "ab")
    assert list(_channels.by_reason(groups)) == ["reaches the output 'y'"]
    facts = replace(channels(), groups=groups[:1], nodes=())
    assert not SECTIONS["frozen"].applies(replace(inspect(), channels=facts))


def test_inspect_tells_how_much_can_be_cut() -> None:
    text = said(section(inspect(), "groups"))
    assert "224 channels in 3 groups can be cut; 35 in 4 groups are kept whole." in text
    assert "93.9 % of MACs and 75.0 % of parameters hang on channels that can be cut" in text
    assert "ScatterND (2), com.example.Mystery (1)" in text
    rows = table(section(inspect(), "groups"), "7 channel groups").rows
    assert rows[0][6] == Names(("stem.weight, axis 0", "block.2.weight, axis 0"))
    assert rows[0][7] == Names(("block.1.weight, axis 1", "fc.weight, axis 1"))
    assert [getattr(r[3], "text", r[3]) for r in rows] == ["yes", "yes", "yes, mixed", "no", "no", "no", "no"]


def test_a_model_without_channels_says_so() -> None:
    run = replace(inspect(), channels=replace(channels(), groups=(), nodes=()))
    assert "nothing can be cut" in said(section(run, "groups"))


@pytest.mark.parametrize("fmt", ["terminal", "markdown", "html"])
def test_what_could_not_be_traced_is_one_sentence(fmt: str) -> None:
    blocks = section(untraced(), "groups")
    assert len(blocks) == 1
    assert "Channels could not be traced: onnxruntime says: no such operator." in said(blocks)
    assert "could not be traced" in " ".join(render(untraced(), fmt).split())


def test_the_summary_tells_of_the_cut() -> None:
    blocks = section(pruned(), "summary")
    assert "56 of 96 channels stay in 2 groups, which leaves 45.1 % of the multiply" in said(blocks)
    figures = next(b for b in blocks if isinstance(b, Figures)).figures
    assert next(f for f in figures if f.label == "MACs").value.exact == "120,000"
    assert "MACs" not in [
        f.label for b in section(compress(), "summary") if isinstance(b, Figures) for f in b.figures
    ]


def test_a_cut_is_a_change() -> None:
    run = replace(pruned(), weights=(replace(pruned().weights[0], relative_error=0.0),))
    assert "No weight changed" not in warned(run)
    assert "No weight changed" in warned(replace(run, cuts=()))


def test_a_cut_weight_shows_both_shapes() -> None:
    rows = table(section(pruned(), "weights"), "3 weights").rows
    assert rows[0][1] == "300 × 784 → 150 × 784"
    assert rows[1][1] == "100 × 300"


def test_groups_are_not_told_twice() -> None:
    keys = [p.key for p in document(pruned()).parts]
    assert "cuts" in keys
    assert "groups" not in keys
