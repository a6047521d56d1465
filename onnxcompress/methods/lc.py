"""lc: every layer compressed in its own way, or several ways added, by one run of the LC algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.methods._base import METHODS, Needs, option
from onnxcompress.methods._lc import Chosen, LcMethod, untrained_advice
from onnxcompress.methods._rules import EVERYTHING, OPERATOR, Rule, read_rule
from onnxcompress.methods._zeros import zeros_warning

if TYPE_CHECKING:
    from onnxcompress.core.encoding import Encoding
    from onnxcompress.core.refusal import Refusal
    from onnxcompress.encodings._base import Projection
    from onnxcompress.encodings.lowrank import FixedRank, LearnedRank
    from onnxcompress.engine.layers import Layer
    from onnxcompress.engine.lc.loop import Part

_UNUSABLE, _MARGINAL = 0.3, 0.08
"""Relative errors of weights above which a warning is given."""


@METHODS.register("lc")
@dataclass(frozen=True)
class Mixed(LcMethod):
    """Different compressions for different weights. With data: learning-compression; without: projections.

    See the options' own texts; None is "found automatically".

    Raises:
        UsageError: a part cannot be read, or an option is out of range.
    """

    name: ClassVar[str] = "lc"
    source: ClassVar[str] = (
        "Carreira-Perpiñán (2017), Model compression as constrained optimization, part I; Idelbayev and "
        "Carreira-Perpiñán (2021), More general and effective model compression via an additive combination "
        "of compressions"
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    summary: ClassVar[str] = "each layer its own compression, or a sum of several: --part"
    node_bytes: ClassVar[int] = 400

    part: tuple[str | dict[str, Any], ...] = option(
        (),
        'What becomes of which weights, as "fc1*=prune(count=5000)" or "op:Conv=codebook(bits=2, joint=true)+'
        'prune(keep=0.01)". Names come before operators and those before "*"; among equals the first counts.',
        metavar="GLOB=COMPRESSION(...)",
    )

    def __post_init__(self) -> None:
        given: Any = self.part
        one_alone = isinstance(given, (str, dict))
        rules = [read_rule(one) for one in ([given] if one_alone else given)]
        object.__setattr__(self, "part", tuple(str(rule) for rule in rules))
        super().__post_init__()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The parts, read."""
        return tuple(read_rule(one) for one in self.part)

    def _parts(self, chosen: Chosen) -> tuple[list[Part], list[Refusal]]:
        """Return a part for each rule that is joint, and one for each weight of the others.

        Raises:
            UsageError: there is no part; a selection matches no weight.
        """
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415

        rules = self.rules
        if not rules:
            raise UsageError(
                "method 'lc' needs parts",
                fix='say what becomes of which weights: --part "fc1*=prune(keep=0.05)"',
            )
        if any(rule.projection().penalised for rule in rules) and (chosen.task is None or self.mode != "lc"):
            why = "a penalty is weighed against the loss in training"
            raise UsageError("a part with alpha needs --data and --mode lc", why=why, fix="use keep")
        taken, refusals = self._taken(chosen, rules)
        parts = []
        for rule, layers in zip(rules, taken, strict=True):
            fitted: dict[str, Projection] = {}
            for layer in layers:
                found = _fitted(rule.projection(), layer, chosen)
                if isinstance(found, str):
                    refusals.append(Refusal(layer.weight, found))
                else:
                    fitted[layer.weight] = found
            groups = _by_type(chosen, list(fitted)) if rule.joint else [(name,) for name in fitted]
            together = [_together([fitted[n] for n in group]) for group in groups]
            parts += [Part(g, _judged(kind, g, chosen)) for g, kind in zip(groups, together, strict=True)]
            for part in parts[len(parts) - len(groups) :]:
                _check_reachable(part, rule, chosen)
        return parts, refusals

    def _taken(self, chosen: Chosen, rules: Sequence[Rule]) -> tuple[list[list[Layer]], list[Refusal]]:
        """Return the layers each rule takes: of rules that match, by name before by operator, the first."""
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.layers import layers, matching  # noqa: PLC0415

        every, weights = layers(chosen.model), chosen.model.weights
        claims: dict[str, list[tuple[int, int]]] = {}
        for place, rule in enumerate(rules):
            for glob in rule.which:
                if glob.startswith(OPERATOR):
                    matched, rank = _with_operator(every, glob.removeprefix(OPERATOR)), 1
                else:
                    matched = matching(every, glob, option="--part", others=weights)
                    rank = 2 if glob == EVERYTHING else 0
                for layer in matched:
                    claims.setdefault(layer.weight, []).append((rank, place))
        taken: list[list[Layer]] = [[] for _ in rules]
        refusals = []
        for layer in chosen.layers:
            if layer.weight in claims:
                taken[min(claims[layer.weight])[1]].append(layer)
            else:
                refusals.append(Refusal(layer.weight, "no part names it"))
        return taken, refusals

    def _worthwhile(
        self, parts: Sequence[Part], direct: Mapping[str, Encoding], chosen: Chosen
    ) -> tuple[list[Part], list[Refusal]]:
        """Leave constraint forms alone that do not pay; what penalty forms come to is found in training."""
        found = [p for p in parts if p.projection.penalised]
        rest = [p for p in parts if not p.projection.penalised]
        kept, refusals = super()._worthwhile(rest, direct, chosen)
        return [*found, *kept], refusals

    def _warnings(self, chosen: Chosen, encodings: Mapping[str, Encoding]) -> list[str]:
        warnings = []
        idle = [
            rule
            for rule, layers in zip(self.rules, self._taken(chosen, self.rules)[0], strict=True)
            if not layers
        ]
        for rule in idle:
            warnings.append(f"the part '{rule}' takes no weight: others take all that it matches")
        sparse = [n for n, e in encodings.items() if e.kind == "sparse"]
        if sparse:
            warnings.append(zeros_warning(chosen.model.opset))
        return warnings

    def _untrained_warnings(self, chosen: Chosen, encodings: Mapping[str, Encoding]) -> list[str]:
        from onnxcompress.engine.measures.facts import relative_error  # noqa: PLC0415

        worst = max(relative_error(chosen.arrays[n], e.decode()) for n, e in encodings.items())
        advice = untrained_advice(chosen.task)
        told = f"compressions that leave out up to {worst:.0%} of a weight without training"
        if worst > _UNUSABLE:
            return [f"{told} usually make a model unusable; {advice}"]
        return [f"{told} are marginal; {advice}"] if worst > _MARGINAL else []


def _with_operator(found: Sequence[Layer], operator: str) -> list[Layer]:
    """Return the layers that nodes of this operator use; raises UsageError naming the ones there are."""
    matched = [layer for layer in found if any(c.op_type == operator for c in layer.consumers)]
    if not matched:
        there = sorted({c.op_type for layer in found for c in layer.consumers})
        raise UsageError(
            f"--part '{OPERATOR}{operator}' matches no operator that uses a weight",
            fix=f"there are {', '.join(there)}" if there else None,
        )
    return matched


def _by_type(chosen: Chosen, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the names by the type of the weights: one codebook has one type."""
    types = dict.fromkeys(chosen.arrays[n].dtype for n in names)
    return [tuple(n for n in names if chosen.arrays[n].dtype == t) for t in types]


# what only the weight tells --------------------------------------------------------------------------------


def _fitted(kind: Projection, layer: Layer, chosen: Chosen) -> Projection | str:
    """Return the compression with what only the weight tells: axes, layouts; or why it cannot be."""
    from onnxcompress.encodings.additive import Sum  # noqa: PLC0415
    from onnxcompress.encodings.lowrank import FixedRank, LearnedRank  # noqa: PLC0415

    if isinstance(kind, Sum):
        terms = [_fitted(term, layer, chosen) for term in kind.parts]
        refused = [t for t in terms if isinstance(t, str)]
        return (
            refused[0] if refused else replace(kind, parts=tuple(t for t in terms if not isinstance(t, str)))
        )
    if isinstance(kind, (FixedRank, LearnedRank)):
        return _factored(kind, layer, chosen)
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if getattr(kind, "granularity", "tensor") != "tensor" and "axis" in names:
        if layer.out_axis is None:
            return "its output channels cannot be told; use granularity=tensor"
        return replace(kind, axis=layer.out_axis)  # type: ignore[type-var]
    return kind


def _factored(kind: FixedRank | LearnedRank, layer: Layer, chosen: Chosen) -> Projection | str:
    """Return low rank for one weight: as the matrices that its users can work with the factors of."""
    from onnxcompress.encodings._ranks import stored  # noqa: PLC0415
    from onnxcompress.encodings.lowrank import FixedRank  # noqa: PLC0415
    from onnxcompress.engine.factors import at_rank, storable  # noqa: PLC0415

    layouts = storable(chosen.model, layer, kind.scheme)
    if isinstance(layouts, str):
        return layouts
    if isinstance(kind, FixedRank):
        return at_rank(kind.rank, layer.shape, layouts)
    fitted = replace(kind, options=(stored(layer.shape, layouts),))
    return fitted if fitted.least([layer.shape]) < 1 else "no rank that may be chosen pays"


def _together(kinds: Sequence[Projection]) -> Projection:
    """Return the joint compression of several weights from those of each."""
    from onnxcompress.encodings.additive import Sum  # noqa: PLC0415
    from onnxcompress.encodings.lowrank import LearnedRank  # noqa: PLC0415

    first = kinds[0]
    if isinstance(first, LearnedRank):
        options = tuple(o for k in kinds if isinstance(k, LearnedRank) for o in k.options)
        return replace(first, options=options)
    if isinstance(first, Sum):
        terms = zip(*(k.parts for k in kinds if isinstance(k, Sum)), strict=True)
        return replace(first, parts=tuple(_together(t) for t in terms))
    return first


def _judged(kind: Projection, names: Sequence[str], chosen: Chosen) -> Projection:
    """Return learned ranks of several weights with what their errors cost in the outputs."""
    from onnxcompress.encodings.lowrank import LearnedRank  # noqa: PLC0415
    from onnxcompress.engine.rank_damage import judged  # noqa: PLC0415

    if not isinstance(kind, LearnedRank) or len(names) < 2:  # one weight alone competes with no other
        return kind
    return judged(kind, names, chosen.model, chosen.task, chosen.resources)


def _check_reachable(part: Part, rule: Rule, chosen: Chosen) -> None:
    """Raise UnsupportedError where even the least ranks keep more than the part says."""
    from onnxcompress.encodings.lowrank import LearnedRank  # noqa: PLC0415

    kind = part.projection
    if not isinstance(kind, LearnedRank) or kind.keep is None:
        return
    least = kind.least([chosen.arrays[n].shape for n in part.weights])
    if kind.keep < least * (1 - 1e-9):
        raise UnsupportedError(
            f"{kind.keep:g} of the weights cannot be reached in the part '{rule}'",
            why=f"the least ranks keep {least:.3g} of them",
            fix="ask for less",
        )
