"""The proof that a simplified graph computes what it did, on every run, before anything is written.

Exact changes: onnxruntime, told to optimise nothing, runs the same operators on the same numbers, so that
outputs must be equal bit by bit. Where numbers went into weights, the graph is compared in float64 in torch
with the new weights unrounded, to the noise floor, and in onnxruntime with the weights as they are stored.
All on random inputs, of other sizes too where the model leaves sizes open.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxcompress.core.errors import OnnxCompressError, UnsupportedError, VerificationError
from onnxcompress.core.model import FLOAT_TYPES, Model
from onnxcompress.core.simplification import SameProof
from onnxcompress.core.task import Feeds
from onnxcompress.engine import runtime
from onnxcompress.engine.channels.other_sizes import PROOFS, Place, Shapes, attempted, by_name
from onnxcompress.engine.feeds import random_feeds
from onnxcompress.engine.measures import shapes as measured
from onnxcompress.engine.scores import made_alike, ways
from onnxcompress.surgery.agreement import NOISE_SLACK, Comparison64, distance, drowns

TOLERANCE = 1e-4
"""Largest difference of an output in onnxruntime, relative to its largest value, once numbers are rounded
into weights; or 4 times what float32 costs the model as it was."""

_EXAMPLES = 2
"""Inputs of the first size."""

_PLACES_BYTES = 1 << 28
"""Values between that take more memory than this, in float64, are not compared beside the outputs."""


def prove_exact(before: Model, after: Model, shapes: Shapes, *, seed: int) -> SameProof:
    """Prove that two models give bitwise equal outputs, in onnxruntime without optimisation.

    Raises:
        VerificationError: they do not.
    """
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        expected = _open(before, Path(folder) / "before")
        found = _open(after, Path(folder) / "after")
        inputs, sizes = _inputs(before, expected, shapes, seed)
        unrepeatable: set[str] = set()
        for feeds in inputs:
            wanted, again, got = expected.run(feeds), expected.run(feeds), _run(found, feeds)
            unrepeatable |= {name for name, value in wanted.items() if not _identical(value, again[name])}
            differs = [n for n, v in wanted.items() if n not in unrepeatable and not _identical(v, got[n])]
            if differs and _half(before):
                # onnxruntime computes half precision in single, and rounds where a node's result is kept:
                # not the same places once a node is gone.
                plain = SameProof(len(inputs), sizes, tuple(sorted(unrepeatable)), bitwise=False)
                return prove_rounding(before, after, after, shapes, plain, seed=seed)
            if differs:
                raise VerificationError(
                    "the simplified model computes something else",
                    where=f"output {differs[0]!r}",
                    why="it is not equal bit by bit",
                    fix="nothing was written; please report this model",
                )
    return SameProof(len(inputs), sizes, tuple(sorted(unrepeatable)), bitwise=True)


def _half(model: Model) -> bool:
    """Tell whether a model computes in half precision."""
    kinds = {weight.dtype.itemsize for weight in model.weights.values()}
    kinds |= {v.dtype.bitwidth // 8 for v in model.ir.graph.inputs if v.dtype in FLOAT_TYPES and v.dtype}
    return 2 in kinds


def prove_rounding(
    before: Model, precise: Model, after: Model, shapes: Shapes, proof: SameProof, *, seed: int
) -> SameProof:
    """Prove that two models agree to rounding; returns the given proof with what was found.

    Args:
        before: the model.
        precise: the one that took numbers into its weights, these in float64.
        after: the same as it is stored.
        shapes: input name -> concrete shape.
        proof: of the exact changes before.
        seed: of the random inputs.

    Raises:
        VerificationError: they do not agree.
    """
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        expected = _open(before, Path(folder) / "before", optimization="all")
        found = _open(after, Path(folder) / "after", optimization="all")
        inputs, sizes = _inputs(before, expected, shapes, seed)
        exact, proof = _compare64(before, precise, inputs, proof)
        decided = made_alike(before.ir, after.ir, ways(before))
        error, tolerance, drowned = 0.0, TOLERANCE, set(proof.drowned_outputs)
        for index, feeds in enumerate(inputs):
            wanted, got = expected.run(feeds), _run(found, feeds)
            for name, value in wanted.items():
                if name in proof.unrepeatable:
                    continue
                noise = distance(exact[index][name], value) if index < len(exact) else 0.0
                off = distance(value, got[name])
                if drowns(noise) or name in decided:
                    if off > 0:
                        drowned.add(name)
                    continue
                allowed = max(TOLERANCE, NOISE_SLACK * noise)
                if off > allowed:
                    raise VerificationError(
                        "the simplified model computes something else in onnxruntime",
                        where=f"output {name!r}",
                        why=f"it differs by {off:.2g} of its largest value, {allowed:.2g} is allowed",
                        fix="nothing was written; please report this model",
                    )
                error, tolerance = max(error, off), max(tolerance, allowed)
    return replace(
        proof,
        inputs=max(proof.inputs, len(inputs)),
        sizes=max(proof.sizes, sizes),
        ort_error=error,
        ort_tolerance=tolerance,
        drowned_outputs=tuple(sorted(drowned)),
    )


def _compare64(
    before: Model, precise: Model, inputs: list[Feeds], proof: SameProof
) -> tuple[list[Mapping[str, Any]], SameProof]:
    """Compare in float64; returns the first model's outputs, and the proof with what was found."""
    weights = list(before.weights)
    outputs: list[Mapping[str, Any]] = []
    try:
        comparison = Comparison64(before, precise, _places(before, precise), {}, weights, rounded={})
        outputs += [comparison.add(feeds) for feeds in inputs]
    except UnsupportedError:
        # A node that runs in no other way than inside its whole model: onnxruntime has the last word.
        return [], replace(proof, single_precision=("the whole graph",))
    agreement = comparison.agreement
    if agreement.worst is not None and agreement.worst[0] not in proof.unrepeatable:
        place, error, floor = agreement.worst
        raise VerificationError(
            "what went into the weights is not what was taken out of the graph",
            where=f"value {place!r}",
            why=f"it differs by {error:.2g} of its largest value, rounding explains {floor:.2g}",
            fix="nothing was written; please report this model",
        )
    return outputs, replace(
        proof,
        float64_error=agreement.error,
        float64_floor=agreement.floor,
        single_precision=agreement.single,
        drowned_outputs=tuple(sorted(agreement.drowned.intersection(*outputs[:1]))),
    )


def _places(before: Model, after: Model) -> list[str]:
    """Return values that both models compute under one name, as many as fit into memory."""
    there = {v.name for node in after.ir.graph for v in node.outputs}
    reached = {v for v in before.ir.graph.inputs if not v.is_initializer()}
    budget = _PLACES_BYTES
    chosen: list[str] = []
    for node in before.ir.graph:
        if not reached.intersection(node.inputs):
            continue  # what is computed from constants alone is none of the data's places
        reached.update(node.outputs)
        for value in node.outputs:
            if not value.name or value.name not in there or value.is_graph_output() or not value.uses():
                continue
            shape = measured.shape_of(value)
            budget -= 8 * (int(np.prod(shape)) if shape is not None else 1 << 16)
            if budget < 0:
                return chosen
            chosen.append(value.name)
    return chosen


def _open(model: Model, folder: Path, optimization: runtime.Optimization = "none") -> runtime.OrtSession:
    folder.mkdir()
    # Weights that are constants are packed for another kernel, which rounds otherwise.
    settings = {"session.disable_prepacking": "1"} if optimization == "none" else {}
    try:
        graph = measured.openable(model.ir, folder)
        return runtime.open_session(graph, optimization=optimization, settings=settings)
    except UnsupportedError as error:
        raise VerificationError(
            "onnxruntime refuses the simplified model", why=error.why or str(error)
        ) from error


def _run(session: runtime.OrtSession, feeds: Feeds) -> dict[str, Any]:
    """Run the simplified model, in which weights may have ceased to be inputs."""
    try:
        return session.run(feeds)
    except OnnxCompressError as problem:
        raise VerificationError(
            "the simplified model does not run", why=problem.why or str(problem)
        ) from problem


def _inputs(model: Model, session: runtime.OrtSession, shapes: Shapes, seed: int) -> tuple[list[Feeds], int]:
    """Return random inputs, and how many sizes there are among them."""

    def drawn(sizes: Shapes, count: int, first: int) -> list[Feeds]:
        return list(random_feeds(session.inputs, seed=first, shapes=sizes, examples=count, model=model))

    def run(sizes: Shapes) -> Feeds | None:
        try:
            (feeds,) = drawn(sizes, 1, seed + 1)
            outputs = session.run(feeds)
        except OnnxCompressError:
            return None
        return feeds if all(np.size(v) for v in outputs.values() if isinstance(v, np.ndarray)) else None

    names: dict[Place, str] = {}
    for info in session.inputs:
        for axis, length in enumerate(info.shape or ()):
            if not isinstance(length, int):
                names[info.name, axis] = str(length or f"{info.name}:{axis}")
    others = attempted(shapes, by_name(names), run, rows=PROOFS, each=False)
    return [*drawn(shapes, _EXAMPLES, seed), *others], 1 + len(others)


def _identical(one: object, other: object) -> bool:
    """Tell whether two outputs are equal bit by bit."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_identical(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_identical(one[k], other[k]) for k in one)
    a, b = np.asarray(one), np.asarray(other)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.tobytes() == b.tobytes() if a.dtype.kind != "O" else bool(np.array_equal(a, b))
