"""The proof that a factored model computes what it did with the product, on every run.

Compared in float64 in torch, where the product of two factors is as exact as everything else, at the outputs
of every node that used a factored weight and at those of the model, to the noise floor; on random inputs and
on given ones, in several sizes where the model leaves sizes open.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxcompress.core.errors import UnsupportedError, VerificationError
from onnxcompress.core.model import Model
from onnxcompress.core.task import Feeds
from onnxcompress.engine import runtime
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.measures import shapes as measured
from onnxcompress.surgery.agreement import Comparison64
from onnxcompress.surgery.factoring import Factored, FactoredModel, multiplied
from onnxcompress.surgery.proof_inputs import HEAVY_MACS, random_inputs


@dataclass(frozen=True)
class FactoringProof:
    """What was compared.

    Attributes:
        inputs: number of inputs.
        places: number of values compared on each.
        error: largest difference found, relative to the largest value there.
        floor: what rounding alone does at that place.
    """

    inputs: int
    places: int
    error: float
    floor: float


def prove_factoring(
    before: Model,
    result: FactoredModel,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    feeds: Sequence[Feeds] = (),
    seed: int = 0,
) -> FactoringProof | None:
    """Prove that ``result = factor(before)`` computes what ``before`` does.

    Args:
        before: the model with low-rank weights.
        result: the model with two layers for each.
        shapes: input name -> concrete shape.
        feeds: inputs to compare on, besides random ones.
        seed: of the random ones.

    Returns:
        None where a node runs in no other way than inside its whole model, so that nothing but the written
        file can be compared.

    Raises:
        VerificationError: it does not.
    """
    channels = analyse(before, shapes)
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        session = runtime.open_session(measured.openable(before.ir.clone(), Path(folder)))
        drawn, _ = random_inputs(channels, session, seed)
    inputs = [*drawn, *feeds]
    expected, weights = multiplied(before, result.layers)
    places = _places(result.layers, before)
    try:
        comparison = Comparison64(expected, result.model, places, {}, weights, rounded={})
        for feed in inputs[:1] if channels.macs({}) > HEAVY_MACS else inputs:
            outputs = comparison.add(feed)
    except UnsupportedError:
        return None
    agreement = comparison.agreement
    if agreement.worst is not None:
        place, error, floor = agreement.worst
        raise VerificationError(
            "two layers do not compute what the one with the product of their weights did",
            where=f"value {place!r}",
            why=f"it differs by {error:.2g} of its largest value, rounding explains {floor:.2g}",
            fix="nothing was written; please report this model",
        )
    return FactoringProof(len(inputs), len({*places, *outputs}), agreement.error, agreement.floor)


def _places(layers: Mapping[str, Factored], model: Model) -> list[str]:
    """Return the outputs of the nodes that used the weights, in the order of the main graph."""
    wanted = {place for layer in layers.values() for place in layer.places}
    found = (v for node in model.ir.graph for v in node.outputs if v.name in wanted)
    return [v.name or "" for v in found if v.uses() or v.is_graph_output()]
