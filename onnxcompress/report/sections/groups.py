"""Channel groups of a model: what must be cut together, what hangs on it, and what cannot be cut and why."""

from __future__ import annotations

from onnxcompress.core.channel_facts import ChannelFacts, GroupFacts
from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections import _channels as channels
from onnxcompress.report.sections import _reading as reading
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import (
    Block,
    Callout,
    Chip,
    Column,
    Inline,
    Name,
    Names,
    Paragraph,
    Strong,
    Table,
    Term,
)


def _told(run: Run) -> bool:
    return run.channels is not None and not run.cuts


@section("groups", title="Channel groups", order=75, applies=_told)
def groups(run: Run) -> tuple[Block, ...]:
    """Show every group, the network they run through, and why some are kept whole."""
    facts = run.channels
    assert facts is not None
    if facts.problem is not None:
        text = facts.problem[:1].upper() + facts.problem[1:].rstrip(".") + "."
        return (Callout("note", "Channel groups are not known", (text,)),)
    blocks: list[Block] = [_sentence(run, facts)]
    if facts.groups:
        blocks.append(_table(facts))
    blocks += channels.picture(run)
    whole = channels.kept_whole(channels.untouched(run), merged=True)
    blocks += [whole] if whole is not None else []
    if facts.without_rule:
        known = ", ".join(f"{op} ({count:,})" for op, count in facts.without_rule.items())
        text = f"Operators whose channels are not known, so that what they touch is kept: {known}."
        blocks.append(Paragraph((text,)))
    if facts.out_of_reach:
        blocks.append(reading.reasons(facts.out_of_reach, "Weights that no group can hold", "Weight"))
    return tuple(blocks)


def _sentence(run: Run, facts: ChannelFacts) -> Paragraph:
    """Tell how much can be cut."""
    free = [g for g in facts.groups if not g.frozen]
    whole = channels.frozen(facts)
    if not facts.groups:
        return Paragraph(
            ("No channels that a layer makes and another reads were found: nothing can be cut.",)
        )
    model = run.models[0] if run.models else None
    parts: list[Inline] = [
        Strong(f"{sum(g.size for g in free):,} channels"),
        f" in {fmt.plural(len(free), 'group')} can be cut",
    ]
    if whole:
        parts.append(f"; {sum(g.size for g in whole):,} in {fmt.plural(len(whole), 'group')} are kept whole")
    parts.append(".")
    if model is not None and free:
        shares = [
            f"{fmt.percent(min(1.0, part / total)).text} of {noun}"
            for part, total, noun in (
                (facts.free_macs, model.macs, "MACs"),
                (facts.free_parameters, model.parameters, "parameters"),
            )
            if part is not None and total
        ]
        if shares:
            parts.append(f" {' and '.join(shares)} hang on channels that can be cut.")
    return Paragraph(tuple(parts))


def _table(facts: ChannelFacts) -> Table:
    colours = channels.hues(facts)
    rows = tuple(
        (
            Chip(f"#{i + 1}", colours[i]),
            Name(group.name),
            fmt.count(group.size),
            _state(group),
            fmt.large(group.parameters, ""),
            fmt.large(group.macs, ""),
            _members(group, reads=False),
            _members(group, reads=True),
        )
        for i, group in enumerate(facts.groups)
    )
    columns = (
        Column("No."),
        Column("Group", "channel_group"),
        Column("Channels", numeric=True),
        Column("Can be cut"),
        Column("Parameters", "carried_parameters", numeric=True),
        Column("MACs", "carried_macs", numeric=True),
        Column("Made by", wide=True),
        Column("Read by", wide=True),
    )
    return Table(fmt.plural(len(rows), "channel group"), columns, rows, long=len(rows) > 24)


def _state(group: GroupFacts) -> Inline:
    if group.frozen:
        return "no"
    return Term("yes, mixed", "mixed") if group.mixed else "yes"


def _members(group: GroupFacts, *, reads: bool) -> Inline:
    names = tuple(f"{m.tensor}, axis {m.axis}" for m in group.members if m.reads == reads)
    return Names(names) if names else "—"
