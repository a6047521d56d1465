"""Simplification: what went without loss, and the proof that outputs are what they were."""

from __future__ import annotations

from onnxcompress.core.run import Run
from onnxcompress.core.simplification import SameProof, SimplificationFacts
from onnxcompress.report import format as fmt
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Column, Inline, Names, Paragraph, Quantity, Strong, Table


@section("simplification", title="Simplified", order=44, applies=lambda run: bool(run.simplifications))
def simplification(run: Run) -> tuple[Block, ...]:
    """Show what each rule did, and the proofs."""
    blocks: list[Block] = [_changes(run.simplifications), Paragraph((_totals(run.simplifications),))]
    for facts in run.simplifications:
        blocks.append(Paragraph(tuple(_proof(facts.proof))))
    return tuple(blocks)


def _changes(simplifications: tuple[SimplificationFacts, ...]) -> Table:
    columns = (
        Column("Rule"),
        Column("What went"),
        Column("Number", numeric=True),
        Column("Bytes", numeric=True),
        Column("Outputs"),
        Column("First of them"),
    )
    rows = tuple(
        (
            change.rule,
            change.what,
            fmt.count(change.count),
            Quantity(f"{change.bytes:,}"),
            "equal bit by bit" if change.exact else "equal to rounding",
            Names(change.where[:2]),
        )
        for facts in simplifications
        for change in facts.changes
    )
    return Table("What the graph did not need", columns, rows)


def _totals(simplifications: tuple[SimplificationFacts, ...]) -> str:
    nodes = sum(f.nodes_before - f.nodes_after for f in simplifications)
    saved = sum(f.bytes_before - f.bytes_after for f in simplifications)
    first = simplifications[0]
    return (
        f"{fmt.plural(nodes, 'node')} of {first.nodes_before} and {fmt.size(saved).text} of "
        f"{fmt.size(first.bytes_before).text} went, counted with all weights decoded."
    )


def _proof(proof: SameProof) -> list[Inline]:
    sizes = f" of {fmt.plural(proof.sizes, 'size')}" if proof.sizes > 1 else ""
    parts: list[Inline] = []
    if proof.bitwise:
        parts += [
            f"On {fmt.plural(proof.inputs, 'random input')}{sizes}, in onnxruntime without optimisation, the "
            "exact changes left all outputs ",
            Strong("equal bit by bit"),
            ". ",
        ]
    if proof.bitwise is False:
        parts.append(
            "onnxruntime computes half precision in single and rounds between nodes, so that equality bit by "
            "bit cannot be seen there. "
        )
    if proof.float64_error is not None:
        floor = proof.float64_floor
        parts += [
            "Computed in float64, with the weights not rounded, values differ by at most ",
            Strong(f"{proof.float64_error:.2g}"),
            " of the largest one",
            "" if floor is None else f" (rounding alone did {floor:.2g} in trials)",
            ". ",
        ]
    if proof.ort_error is not None and proof.ort_tolerance is not None:
        parts.append(
            f"In onnxruntime, with the weights as stored, outputs differ by {proof.ort_error:.2g} of their "
            f"largest value ({proof.ort_tolerance:.2g} is allowed). "
        )
    if proof.single_precision:
        parts += ["These operators had to run in single precision: ", Names(proof.single_precision), ". "]
    if proof.drowned_outputs:
        parts += [
            "Rounding alone turns these outputs into others, so that nothing is proven of them: ",
            Names(proof.drowned_outputs),
            ". ",
        ]
    if proof.unrepeatable:
        parts += [
            "Random from run to run, so that nothing was proven of them: ",
            Names(proof.unrepeatable),
            ".",
        ]
    return parts or ["Nothing had to be proven."]
