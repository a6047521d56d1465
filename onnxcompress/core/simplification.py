"""Simplification of a graph without loss: the decision, as data, and what the report tells of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Simplification:
    """What may be done to a graph that computes the same afterwards.

    A decision like ``Plan.keep``: data. The graph is changed in :mod:`onnxcompress.surgery.lossless`.

    Attributes:
        rounding: changes are allowed after which outputs are equal to rounding only (a normalisation goes
            into a layer's weights); False: outputs stay equal bit by bit.
        freeze_inputs: weights that a caller may replace, being inputs of the graph too, become constants.
    """

    rounding: bool = True
    freeze_inputs: bool = False


@dataclass(frozen=True)
class Change:
    """What one rule did.

    ``rule`` is its name and ``what`` says in words what went; ``count`` how many of them; ``bytes`` by how
    much the model became smaller (with its weights decoded), negative where it grew; ``exact`` whether
    outputs stay equal bit by bit; ``where`` names the first of them.
    """

    rule: str
    what: str
    count: int
    bytes: int
    exact: bool
    where: tuple[str, ...]


@dataclass(frozen=True)
class SameProof:
    """Evidence that the simplified graph computes what the graph did, measured before anything is written.

    ``inputs`` counts the inputs, of ``sizes`` different sizes, on which onnxruntime, told to optimise
    nothing, gave bitwise equal outputs before and after the exact changes. ``bitwise`` is null where
    there were none, and false where that cannot be seen: onnxruntime computes half precision in single
    and rounds between nodes, not where there is no node any more; then equality holds as told below.
    ``unrepeatable`` outputs differ from run to run (random operators) and prove nothing.

    The others, where there were any, hold to ``float64_error`` with the new weights left in float64, of which
    rounding alone explains ``float64_floor`` (both relative to the largest value at the same place), and to
    ``ort_error`` (relative to an output's largest value) in onnxruntime, with the weights as stored;
    ``ort_tolerance`` was allowed. ``single_precision`` names operators that had to run in float32.
    ``drowned_outputs`` are those that rounding alone turns into something else, as it does decisions: they
    prove nothing.
    """

    inputs: int
    sizes: int
    unrepeatable: tuple[str, ...] = ()
    bitwise: bool | None = None
    float64_error: float | None = None
    float64_floor: float | None = None
    ort_error: float | None = None
    ort_tolerance: float | None = None
    single_precision: tuple[str, ...] = ()
    drowned_outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class SimplificationFacts:
    """What one method simplified, and the proof that nothing was lost.

    ``bytes_before`` and ``bytes_after`` are those of the model with its weights decoded.
    """

    method: str
    changes: tuple[Change, ...]
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    proof: SameProof
