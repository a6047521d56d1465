"""lc-lowrank: layers become two of less work, at ranks that are given or learned by the LC algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.methods._base import DEAREST, METHODS, Needs, option
from onnxcompress.methods._lc import WHOLE, Chosen, LcMethod, untrained_advice

if TYPE_CHECKING:
    from onnxcompress.core.encoding import Encoding
    from onnxcompress.core.refusal import Refusal
    from onnxcompress.encodings._ranks import Options
    from onnxcompress.encodings.lowrank import LearnedRank
    from onnxcompress.engine.allocation import Target
    from onnxcompress.engine.layers import Layer
    from onnxcompress.engine.lc.loop import Part

TARGET = "macs=0.5"
"""What ranks are learned for where nothing is said."""

FAST = 16
"""Ranks that are multiples of this are fast in onnxruntime."""

AUTO = "auto"


@METHODS.register("lc-lowrank")
@dataclass(frozen=True)
class LcLowRank(LcMethod):
    """Low rank. With data: learning-compression; without: the closest weights of the rank (truncated SVD).

    See the options' own texts; None is "found automatically".

    Raises:
        UsageError: options that contradict each other or are out of range.
    """

    name: ClassVar[str] = "lc-lowrank"
    source: ClassVar[str] = (
        "Idelbayev and Carreira-Perpiñán (2020), Low-rank compression of neural nets: learning the rank of "
        "each layer; schemes of convolutions: Denton et al. (2014), Jaderberg et al. (2014)"
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    summary: ClassVar[str] = "layers become two of less work: smaller and faster"

    rank: str | int | None = option(
        None, "Rank of every layer, or auto: learned for --target or --alpha. [default: auto]"
    )
    target: str | None = option(
        None,
        "The share of the whole macs, params or (measured) latency that stays, for learned ranks. "
        f"[default: {TARGET}]",
        metavar="QUANTITY=X",
    )
    alpha: float | None = option(
        None,
        "Instead of --target, for learned ranks: what a parameter (--cost) adds to the loss.",
        most=DEAREST,
    )
    cost: Literal["params", "macs"] = option(
        "params", "What --alpha is the price of.", choices=("params", "macs")
    )
    scheme: Literal["auto", "1", "2"] = option(
        "auto",
        "Convolutions as the whole kernel and 1x1 (1), as 1xk and kx1 (2), or as what loses less (auto).",
        choices=("auto", "1", "2"),
    )
    round_to: int | None = option(
        None,
        f"Learned ranks are multiples of this, and of 4 below it; 1 allows any. [default: 1 for params, else "
        f"{FAST}]",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learned:
            self._check_learned()
        else:
            for name in ("target", "alpha", "round_to"):
                if getattr(self, name) is not None:
                    flag = "--" + name.replace("_", "-")
                    raise UsageError(f"{flag} is for --rank auto", why=f"the rank is {self.rank}")
        if self.cost != "params" and self.alpha is None:
            raise UsageError("--cost says what --alpha is the price of", fix="use --target macs=X")

    @property
    def learned(self) -> bool:
        """Whether the ranks are found."""
        if self.rank is None or self.rank == AUTO:
            return True
        if not (isinstance(self.rank, int) or self.rank.isdecimal()) or int(self.rank) < 1:
            raise UsageError("--rank must be auto or a number from 1 on", why=f"found {self.rank!r}")
        return False

    def _check_learned(self) -> None:
        if self.alpha is not None:
            if not self.alpha > 0:
                raise UsageError("--alpha must be positive", why=f"found {self.alpha}")
            if self.target is not None:
                raise UsageError("--alpha and --target exclude each other", fix="give one of them")
            if self.mode != "lc":
                raise UsageError(
                    f"--alpha needs --mode lc, not {self.mode}",
                    why="a penalty is weighed against the loss in training",
                )
        if self.round_to is not None and self.round_to not in (1, 2) and self.round_to % 4:
            raise UsageError("--round-to must be 1, 2 or a multiple of 4", why=f"found {self.round_to}")
        self._target()  # raises where it cannot be read

    def _target(self) -> Target:
        from onnxcompress.engine.allocation import Target  # noqa: PLC0415

        return Target.read(self.target or TARGET)

    def _parts(self, chosen: Chosen) -> tuple[list[Part], list[Refusal]]:
        if not self.learned:
            return self._given_rank(chosen)
        if self.alpha is not None and chosen.task is None:
            raise UsageError(
                "--alpha needs data",
                why="a penalty is weighed against the loss",
                fix="use --target, or --data",
            )
        return self._learned_ranks(chosen)

    def _worthwhile(
        self, parts: Sequence[Part], direct: Mapping[str, Encoding], chosen: Chosen
    ) -> tuple[list[Part], list[Refusal]]:
        """Keep all: ranks that do not pay were left out before, and learned ones are learned."""
        return list(parts), []

    # one rank for all --------------------------------------------------------------------------------------

    def _given_rank(self, chosen: Chosen) -> tuple[list[Part], list[Refusal]]:
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.factors import at_rank, storable  # noqa: PLC0415
        from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415

        assert self.rank is not None
        parts, refusals = [], []
        for layer in chosen.layers:
            layouts = storable(chosen.model, layer, self.scheme)
            found = layouts if isinstance(layouts, str) else at_rank(int(self.rank), layer.shape, layouts)
            if isinstance(found, str):
                refusals.append(Refusal(layer.weight, found))
            else:
                parts.append(Part((layer.weight,), found))
        return parts, refusals

    # learned ranks -----------------------------------------------------------------------------------------

    def _learned_ranks(self, chosen: Chosen) -> tuple[list[Part], list[Refusal]]:
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.encodings.lowrank import LearnedRank  # noqa: PLC0415
        from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415
        from onnxcompress.engine.rank_damage import judged  # noqa: PLC0415

        quantity = self.cost if self.alpha is not None else self._target().quantity
        options, refusals = {}, []
        for layer in chosen.layers:
            found = self._options(chosen, layer, str(quantity))
            if isinstance(found, str):
                refusals.append(Refusal(layer.weight, found))
            else:
                options[layer.weight] = found
        round_to = self.round_to or (1 if quantity == "params" else FAST)
        ways = LearnedRank(
            self.alpha,
            None if self.alpha is not None else 1.0,
            round_to=round_to,
            scheme=self.scheme,
            options=tuple(options.values()),
        )
        worth = [i for i, n in enumerate(options) if ways.of([i]).least([chosen.arrays[n].shape]) < 1]
        names = [n for i, n in enumerate(options) if i in worth]
        refusals += [Refusal(n, "no rank that may be chosen pays") for n in options if n not in names]
        if not names:
            return [], refusals
        projection = ways.of(worth)
        if self.alpha is not None:
            return [Part(tuple(names), projection)], refusals
        if quantity == "latency":  # what the work comes to is found later; this much is likely
            least = projection.least([chosen.arrays[n].shape for n in names])
            projection = replace(projection, keep=max(least, self._target().share))
        else:
            projection = self._within_target(projection, chosen, names)
        projection = judged(projection, names, chosen.model, chosen.task, chosen.resources)
        if quantity != "latency":
            return [Part(tuple(names), projection)], refusals
        return self._timed(projection, chosen, names, refusals)

    def _timed(
        self, projection: LearnedRank, chosen: Chosen, names: Sequence[str], refusals: list[Refusal]
    ) -> tuple[list[Part], list[Refusal]]:
        """Return the ranks whose latency was measured; they stay while training, or it would not hold."""
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.encodings.lowrank import FixedRank, LowRank  # noqa: PLC0415
        from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415
        from onnxcompress.engine.rank_latency import within_latency  # noqa: PLC0415

        model, measured = chosen.model, chosen.resources.latency
        if measured is None:
            raise UsageError("--target latency cannot be measured here", fix="use --target macs=X")

        def latency(encodings: Sequence[Encoding]) -> float:
            factored = {n: e for n, e in zip(names, encodings, strict=True) if isinstance(e, LowRank)}
            return measured(model.with_encodings(factored, self.name), {})

        weights = [chosen.arrays[n] for n in names]
        found = within_latency(projection, weights, latency, self._target().share)
        parts = []
        for name, encoding in zip(names, found, strict=True):
            if isinstance(encoding, LowRank):
                parts.append(Part((name,), FixedRank(encoding.rank, layouts=(encoding.layout,))))
            else:
                refusals.append(Refusal(name, WHOLE))
        return parts, refusals

    def _options(self, chosen: Chosen, layer: Layer, quantity: str) -> Options | str:
        """Return what a layer may become and what that costs; why it cannot become two layers."""
        from onnxcompress.encodings._ranks import stored  # noqa: PLC0415
        from onnxcompress.engine.channels import analyse  # noqa: PLC0415
        from onnxcompress.engine.factors import storable, ways, work  # noqa: PLC0415

        if quantity == "params":
            layouts = storable(chosen.model, layer, self.scheme)
            return layouts if isinstance(layouts, str) else stored(layer.shape, layouts)
        found = ways(chosen.model.weights[layer.weight], self.scheme)
        if isinstance(found, str):
            return found
        traced = analyse(chosen.model, chosen.resources.input_shapes).ground.trace.shapes
        by_name = {value.name: shape for value, shape in traced.items()}
        return work(found, layer.shape, lambda v: by_name.get(v.name)) or "does work of unknown extent"

    def _within_target(self, projection: LearnedRank, chosen: Chosen, names: Sequence[str]) -> LearnedRank:
        """Return the constraint form whose budget is what the target leaves after all that stays."""
        target = self._target()
        whole = sum(options.whole for options in projection.options)
        total = _total(chosen, target.quantity)
        keep = (target.share * total - (total - whole)) / whole if whole else 1.0
        least = projection.least([chosen.arrays[n].shape for n in names])
        if keep < least * (1 - 1e-9):
            reached = (total - whole + least * whole) / total
            what = "parameters" if target.quantity == "params" else "multiply-accumulates"
            raise UnsupportedError(
                f"{target.share:g} of the {what} cannot be reached",
                why=f"{reached:.3g} stay with every layer that can be two at its least rank",
                fix="ask for less, or for smaller steps of ranks (--round-to 1)",
            )
        return replace(projection, keep=keep)

    # telling -----------------------------------------------------------------------------------------------

    def _untrained_warnings(self, chosen: Chosen, encodings: Mapping[str, Encoding]) -> list[str]:
        from onnxcompress.engine.measures.facts import relative_error  # noqa: PLC0415

        factored = [n for n, e in encodings.items() if e.kind != "dense"]
        lost = [relative_error(chosen.arrays[n], encodings[n].decode()) for n in factored]
        advice, worst = untrained_advice(chosen.task), max(lost, default=0.0)
        left_out = f"factors that leave out up to {worst:.0%} of a weight without training"
        if worst > _UNUSABLE:
            return [f"{left_out} usually make a model unusable; {advice}"]
        if worst > _MARGINAL:
            return [f"{left_out} are marginal; {advice}"]
        return []


_UNUSABLE, _MARGINAL = 0.5, 0.15
"""Relative errors of weights above which a warning is given."""


def _total(chosen: Chosen, quantity: str) -> float:
    """Return the parameters, or multiply-accumulates, of the whole model."""
    from onnxcompress.engine.measures.costs import count_macs  # noqa: PLC0415

    if quantity == "params":
        return float(sum(w.size for w in chosen.model.weights.values()))
    return float(count_macs(chosen.model, chosen.resources.input_shapes).total)
