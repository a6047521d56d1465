"""Channels cut: how many of each group stay, what that saves, and the proof that nothing else is gone."""

from __future__ import annotations

from onnxcompress.core.channel_facts import CutFacts, CutProof
from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections import _channels as channels
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import (
    Block,
    Callout,
    Chip,
    Column,
    Inline,
    Mark,
    Meter,
    Name,
    Names,
    Paragraph,
    Strong,
    Table,
    Term,
)


@section("cuts", title="Channels cut", order=45, applies=lambda run: bool(run.cuts))
def cuts(run: Run) -> tuple[Block, ...]:
    """Show totals, groups, the network, the proof, and what was kept whole."""
    blocks: list[Block] = [_totals(run), *_groups(run), *channels.picture(run)]
    for cut in run.cuts:
        blocks += _proof(run, cut)
    whole = channels.kept_whole(channels.untouched(run), merged=True)
    blocks += [whole] if whole is not None else []
    return tuple(blocks)


def _totals(run: Run) -> Table:
    found = channels.cut_groups(run.cuts).values()
    first, last = run.cuts[0], run.cuts[-1]
    rows = []
    for term, label, before, after in (
        ("kept_channels", "Channels", sum(k.of for k in found), sum(k.kept for k in found)),
        ("parameters", "Parameters", first.parameters_before, last.parameters_after),
        ("macs", "MACs", first.macs_before, last.macs_after),
    ):
        share = after / before if before else None
        told = f"{fmt.percent(share, reason='none').text} stay"
        meter: Inline = Meter(share, told) if share is not None else ""
        rows.append(
            (
                Term(label, term),
                fmt.large(before, ""),
                fmt.large(after, ""),
                meter,
                fmt.percent(share, reason="—"),
            )
        )
    caption = f"Before and after the cut; channels of the {fmt.plural(len(found), 'group')} that were cut"
    columns = (
        Column(""),
        Column("Before", numeric=True),
        Column("After", numeric=True),
        Column("Stays"),
        Column("", numeric=True),
    )
    return Table(caption, columns, tuple(rows))


def _groups(run: Run) -> tuple[Block, ...]:
    found = channels.cut_groups(run.cuts)
    if not found:
        return ()
    facts = run.channels
    place = {} if facts is None else {g.name: i for i, g in enumerate(facts.groups)}
    colours = () if facts is None else channels.hues(facts)
    rows = []
    for name, kept in found.items():
        number = place.get(name)
        chip = Chip(f"#{number + 1}", colours[number]) if number is not None else Chip("", None)
        told = f"{kept.kept:,} of {kept.of:,} channels kept"
        mixed: Inline = Term("mixed", "mixed") if kept.mixed else ""
        rows.append(
            (
                chip,
                Name(name),
                fmt.count(kept.kept),
                fmt.count(kept.of),
                Meter(kept.fraction, told),
                fmt.percent(kept.fraction),
                mixed,
            )
        )
    columns = [
        Column("No."),
        Column("Group", "channel_group"),
        Column("Kept", "kept_channels", numeric=True),
        Column("Of", numeric=True),
        Column("Stays"),
        Column("", numeric=True),
        Column("Remark"),
    ]
    shown = [i for i, c in enumerate(columns) if not (c.title == "No." and not place)]
    if not any(kept.mixed for kept in found.values()):
        shown.remove(len(columns) - 1)
    table = Table(
        f"{fmt.plural(len(rows), 'channel group')} cut",
        tuple(columns[i] for i in shown),
        tuple(tuple(row[i] for i in shown) for row in rows),
        long=len(rows) > 24,
    )
    return (table,)


def _proof(run: Run, cut: CutFacts) -> list[Block]:
    proof = cut.proof
    said = f"Method {cut.method}: " if len(run.cuts) > 1 else ""
    sizes = f" of {fmt.plural(proof.sizes, 'size')}" if proof.sizes > 1 else ""
    agreed = proof.ort_error <= proof.ort_tolerance
    parts: list[Inline] = [
        f"{said}the ",
        Term("cut network against the silenced one", "silenced"),
        f", on {fmt.plural(proof.inputs, 'input')}{sizes}: largest ",
        Term("error in float64", "float64_error"),
        " ",
        Strong(_error(proof.float64_error)),
        f" over {fmt.plural(proof.places, 'place')} ",
        f"(rounding alone did {_error(proof.float64_floor)} in trials); ",
        Term("in onnxruntime", "ort_error"),
        " ",
        Strong(_error(proof.ort_error)),
        f" (allowed {fmt.given(proof.ort_tolerance).text}): ",
        Mark(agreed, "equal to rounding" if agreed else "FAILED"),
        ".",
    ]
    if said == "":
        parts[0] = "The "
    blocks: list[Block] = [Paragraph(tuple(parts)), *_remarks(proof)]
    if cut.folded:
        places = fmt.plural(cut.folded, "place")
        told = f"What cut channels contributed as constants went into the bias of what read them at {places}."
        blocks.append(Paragraph((told,)))
    return blocks


def _remarks(proof: CutProof) -> list[Block]:
    """Tell what the proof does not cover."""
    found: list[Block] = []
    if proof.mixed_difference is not None:
        moved = fmt.percent(proof.mixed_difference).text
        told = (
            "Some groups that were cut are ",
            Term("mixed", "mixed"),
            f": a normalisation no longer sees what was cut, which moves the outputs by {moved} (relative "
            "error). That is a real change, not an error. In the proof the normalisation of the silenced "
            "network is shown what stays, too.",
        )
        found.append(Callout("note", "A normalisation sees fewer channels", told))
    if proof.silent_outputs:
        names = Names(proof.silent_outputs)
        told_silent: tuple[Inline, ...] = (
            "Zero, or no numbers, on every input, so that nothing was proven of them: ",
            names,
            ".",
        )
        found.append(Callout("warning", "Outputs that say nothing", told_silent))
    if proof.drowned_outputs:
        found.append(
            Paragraph(
                (
                    "Rounding alone turns these outputs into others, so that nothing is proven of them: ",
                    Names(proof.drowned_outputs),
                    ".",
                )
            )
        )
    if proof.single_precision:
        found.append(
            Paragraph(
                ("These operators had to run in single precision: ", Names(proof.single_precision), ".")
            )
        )
    return found


def _error(value: float) -> str:
    return fmt.digits(value, 2)
