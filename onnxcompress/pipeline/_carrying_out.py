"""Carrying out a plan: encodings are set, channels are cut, and the cut is proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxcompress import surgery
from onnxcompress.core.channel_facts import CutFacts, GroupCut
from onnxcompress.core.channels import Keep
from onnxcompress.core.encoding import Encoding
from onnxcompress.core.model import Model
from onnxcompress.core.plan import Plan
from onnxcompress.core.refusal import Refusal
from onnxcompress.core.simplification import SimplificationFacts
from onnxcompress.core.task import Feeds, Task
from onnxcompress.engine.channels import Channels, analyse
from onnxcompress.engine.channels.unsharing import UNSHARED
from onnxcompress.engine.data.examples import Examples
from onnxcompress.engine.dense_proto import rebuilt
from onnxcompress.engine.int8.prepare import prepare
from onnxcompress.engine.quantizer import quantized
from onnxcompress.pipeline._factoring import two_layers
from onnxcompress.surgery.factoring import Factored

PROOF_EXAMPLES = 2
"""Examples of the data on which a cut is compared with silencing, besides random inputs."""


@dataclass(frozen=True, eq=False)
class CarriedOut:
    """A model after one plan.

    Attributes:
        model: the model.
        cut: what was cut; None where nothing was.
        warnings: sentences the user must see.
        simplified: what was simplified without loss; None where nothing was.
        refusals: what surgery left alone, and why.
        factored: weight name -> the two layers' weights it became.
    """

    model: Model
    cut: CutFacts | None
    warnings: tuple[str, ...]
    simplified: SimplificationFacts | None = None
    refusals: tuple[Refusal, ...] = ()
    factored: Mapping[str, Factored] = field(default_factory=dict)


def carry_out(
    plan: Plan,
    model: Model,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    method: str,
    task: Task | None,
    seed: int,
) -> CarriedOut:
    """Carry out what a method decided.

    Args:
        plan: the decision.
        model: the model it was made for.
        shapes: input name -> concrete shape.
        method: name of the method that decided.
        task: data to prove a cut on, besides random inputs.
        seed: of the random inputs.

    Raises:
        UnsupportedError: the plan cuts what cannot be cut.
        VerificationError: the cut model does not compute what the silenced one does.
    """
    if plan.quantization is not None:
        graph = quantized(prepare(model, shapes).proto, plan.quantization)
        return CarriedOut(rebuilt(model, graph, method), None, ())
    if plan.simplification is not None:
        found = surgery.simplify(model, plan.simplification, shapes, method=method, seed=seed)
        return CarriedOut(found.model, None, (), found.facts, found.refusals)
    encodings = {**plan.values, **plan.weights}
    if not cuts(plan):
        encoded = model.with_encodings(encodings, method)
        split = two_layers(encoded, shapes, feeds=_examples(task), seed=seed)
        return CarriedOut(split.model, None, split.warnings, factored=split.layers)
    unshared = analyse(model, shapes).model
    decided = unshared.with_encodings(_of_copies(unshared, encodings), method)
    channels = analyse(decided, shapes)
    keep = {name: mask for name, mask in plan.keep.items() if not np.all(mask)}
    result = surgery.cut(channels, keep, plan.constants)
    proof = surgery.prove(channels, keep, result, plan.constants, feeds=_examples(task), seed=seed)
    facts = CutFacts(
        method=method,
        groups=tuple(_group_cuts(channels, keep)),
        parameters_before=_parameters(model),
        parameters_after=_parameters(result.model),
        macs_before=channels.macs({}),
        macs_after=channels.macs(keep),
        proof=proof,
        folded=result.folded,
    )
    return CarriedOut(result.model, facts, (*result.warnings, *_told(facts)))


def cuts(plan: Plan) -> bool:
    """Tell whether a plan cuts anything."""
    return any(not np.all(mask) for mask in plan.keep.values())


def _of_copies(unshared: Model, encodings: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """Return encodings for a model in which shared constants have copies: a copy is what its original is."""
    found = dict(encodings)
    for name, weight in unshared.weights.items():
        original = str(weight.value.meta.get(UNSHARED, ""))
        if original in encodings and name not in encodings:
            found[name] = encodings[original]
    return found


def _examples(task: Task | None) -> Sequence[Feeds]:
    """Return a few examples the method chose by, as the model takes them."""
    if task is None or task.random or not isinstance(task.samples, Examples):
        return ()
    stack = task.samples.inputs(task.validation[:PROOF_EXAMPLES])
    return [feed for _, feed in task.samples.feeding.calls(stack, PROOF_EXAMPLES)]


def _group_cuts(channels: Channels, keep: Keep) -> list[GroupCut]:
    return [
        GroupCut(name, int(np.sum(mask)), channels.group(name).size, channels.group(name).mixed)
        for name, mask in keep.items()
    ]


def _parameters(model: Model) -> int:
    return sum(weight.size for weight in model.weights.values())


def _told(facts: CutFacts) -> list[str]:
    told = []
    mixed = [group.name for group in facts.groups if group.mixed]
    if mixed and facts.proof.mixed_difference is not None:
        one = len(mixed) == 1
        told.append(
            f"{len(mixed)} channel {'group' if one else 'groups'} that a normalisation looks at together "
            f"{'was' if one else 'were'} cut: that changes what "
            f"it computes of the others, and outputs by {facts.proof.mixed_difference:.2g} relative l2"
        )
    if facts.proof.silent_outputs:
        shown = ", ".join(f"'{name}'" for name in facts.proof.silent_outputs[:3])
        told.append(f"outputs that are zero or no numbers on every input prove nothing of the cut: {shown}")
    return told
