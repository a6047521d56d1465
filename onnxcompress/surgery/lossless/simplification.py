"""The order in which rules are applied, and what each of them did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from onnxcompress.core.model import Model
from onnxcompress.core.refusal import Refusal
from onnxcompress.core.simplification import Change, SameProof, Simplification, SimplificationFacts
from onnxcompress.surgery.lossless.affine import fold_affine
from onnxcompress.surgery.lossless.constants import fold_constants, store_constants
from onnxcompress.surgery.lossless.duplicates import merge_constants, merge_nodes
from onnxcompress.surgery.lossless.passing import remove_passing
from onnxcompress.surgery.lossless.proof import prove_exact, prove_rounding
from onnxcompress.surgery.lossless.space_to_depth import fold_space_to_depth
from onnxcompress.surgery.lossless.unused import freeze_inputs, remove_unused
from onnxcompress.surgery.lossless.workpiece import Workpiece

Apply = Callable[[Workpiece], Iterator[str]]


@dataclass(frozen=True)
class Rule:
    """A way to simplify a graph, after which outputs are equal bit by bit: its name, what goes, how."""

    name: str
    what: str
    apply: Apply


FREEZE = Rule("frozen inputs", "weights that are constants now, and no inputs", freeze_inputs)
RULES = (
    Rule("unused", "nodes and constants that nothing reads", remove_unused),
    Rule("passing on", "nodes that change nothing, or undo one another", remove_passing),
    Rule("equal nodes", "nodes that compute what another one does", merge_nodes),
    Rule("constants", "results that are the same for every input, stored", fold_constants),
    Rule("Constant nodes", "constants stored as initializers, in fewer bytes", store_constants),
)
DUPLICATES = Rule("duplicates", "constants that are stored already", merge_constants)
NORMALISATION, SCALES, DEPTH = "normalisation", "scales and shifts", "space to depth"
WORDS = {
    NORMALISATION: "folded into the weights of the layer beside it",
    SCALES: "folded into the weights of the layer beside them",
    DEPTH: "nodes that put pixels along the channels, for a convolution that reads the picture itself now",
}
"""Rules after which outputs are equal to rounding."""

ROUNDS = 50
"""Rules are applied again while one of them finds something, so many times at most."""

_NAMED = 12
"""Names that a report shows of what a rule did."""


@dataclass(frozen=True, eq=False)
class Simplified:
    """A simplified model, what was done (None: nothing was found), and what was left alone."""

    model: Model
    facts: SimplificationFacts | None
    refusals: tuple[Refusal, ...] = ()


@dataclass
class _Tally:
    """What rules did so far; bytes are found by weighing the model before and after."""

    work: Workpiece
    found: dict[str, list[str]] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)
    size: int = 0

    def __post_init__(self) -> None:
        self.size = self.work.size_bytes()

    def add(self, rule: str, names: list[str]) -> None:
        """Note what a rule just did."""
        if not names:
            return
        size = self.work.size_bytes()
        self.found.setdefault(rule, []).extend(names)
        self.saved[rule] = self.saved.get(rule, 0) + self.size - size
        self.size = size

    def changes(self, words: Mapping[str, str]) -> tuple[Change, ...]:
        """Return what was done, rule by rule."""
        return tuple(
            Change(
                rule=rule,
                what=words[rule],
                count=len(self.found[rule]),
                bytes=self.saved[rule],
                exact=rule not in WORDS,
                where=tuple(self.found[rule][:_NAMED]),
            )
            for rule in words
            if rule in self.found
        )


def simplify(
    model: Model, decision: Simplification, shapes: Mapping[str, tuple[int, ...]], *, method: str, seed: int
) -> Simplified:
    """Simplify a clone of a model and prove that it computes the same.

    Equal constants are left to :func:`join_duplicates`, after the last method: one that trains or cuts
    wants the weights of two layers apart, also where they are equal today.

    Args:
        model: the model.
        decision: what may be done.
        shapes: input name -> concrete shape.
        method: name of the method that decided.
        seed: of the random inputs of the proof.

    Raises:
        VerificationError: it does not.
    """
    work = Workpiece(model)
    tally, before = _Tally(work), (work.count_nodes(), work.size_bytes())
    if decision.freeze_inputs:
        tally.add(FREEZE.name, list(FREEZE.apply(work)))
    _exact(work, tally)
    exact = work.model()
    refusals: tuple[Refusal, ...] = ()
    changed = bool(tally.found)
    proof = prove_exact(model, exact, shapes, seed=seed) if changed else SameProof(0, 0)
    result = exact
    if decision.rounding:
        work = Workpiece(exact)
        tally.work = work
        for normalisations, names in fold_affine(work):
            tally.add(NORMALISATION if normalisations else SCALES, names)
        tally.add(DEPTH, list(fold_space_to_depth(work)))
        refusals = tuple(Refusal(where, f"is not folded: {why}") for where, why in work.refused.items())
        if WORDS.keys() & tally.found.keys():
            _exact(work, tally)
            result = work.model()
            precise = Workpiece(exact)
            for _ in fold_affine(precise, precise=True):
                pass
            for _ in fold_space_to_depth(precise):
                pass
            proof = prove_rounding(exact, precise.model(), result, shapes, proof, seed=seed)
    if not tally.found:
        return Simplified(model, None, refusals)
    words = {rule.name: rule.what for rule in (FREEZE, *RULES)} | WORDS
    facts = SimplificationFacts(
        method=method,
        changes=tally.changes(words),
        nodes_before=before[0],
        nodes_after=work.count_nodes(),
        bytes_before=before[1],
        bytes_after=tally.size,
        proof=proof,
    )
    done = Model(result.ir, result.source, result.encodings, (*model.steps, method))
    return Simplified(done, facts, refusals)


def join_duplicates(
    model: Model, shapes: Mapping[str, tuple[int, ...]], *, method: str, seed: int
) -> Simplified:
    """Store equal constants once, in a clone, and prove that it computes the same; see :func:`simplify`."""
    work = Workpiece(model)
    tally, before = _Tally(work), (work.count_nodes(), work.size_bytes())
    tally.add(DUPLICATES.name, list(DUPLICATES.apply(work)))
    if not tally.found:
        return Simplified(model, None)
    result = work.model()
    facts = SimplificationFacts(
        method=method,
        changes=tally.changes({DUPLICATES.name: DUPLICATES.what}),
        nodes_before=before[0],
        nodes_after=work.count_nodes(),
        bytes_before=before[1],
        bytes_after=tally.size,
        proof=prove_exact(model, result, shapes, seed=seed),
    )
    return Simplified(result, facts)


def _exact(work: Workpiece, tally: _Tally) -> None:
    """Apply all rules that keep outputs equal bit by bit until none finds anything."""
    for _ in range(ROUNDS):
        found = False
        for rule in RULES:
            names = list(rule.apply(work))
            tally.add(rule.name, names)
            found |= bool(names)
        if not found:
            return
