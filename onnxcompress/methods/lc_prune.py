"""lc-prune: most weights set to zero, which ones found by the LC algorithm where there is data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxcompress.core.errors import UsageError
from onnxcompress.methods._base import DEAREST, METHODS, Needs, option
from onnxcompress.methods._lc import Chosen, LcMethod, untrained_advice
from onnxcompress.methods._zeros import zeros_warning

if TYPE_CHECKING:
    from onnxcompress.core.encoding import Array, Encoding
    from onnxcompress.core.refusal import Refusal
    from onnxcompress.encodings._base import Projection
    from onnxcompress.engine.lc.loop import Part

KEEP = 0.1
"""Share that stays where nothing else is said."""


@METHODS.register("lc-prune")
@dataclass(frozen=True)
class LcPrune(LcMethod):
    """Pruning of single weights. With data: learning-compression; without: the largest ones stay.

    See the options' own texts; None is "found automatically".

    Raises:
        UsageError: options that contradict each other or are out of range.
    """

    name: ClassVar[str] = "lc-prune"
    source: ClassVar[str] = (
        "Carreira-Perpiñán and Idelbayev (2018), “Learning-compression” algorithms for neural net pruning"
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    summary: ClassVar[str] = "most weights set to zero: a smaller file, no speed-up"
    node_bytes: ClassVar[int] = 500

    keep: float | None = option(
        None,
        f"Share of the weights that stays (with --norm l1: of the sum of magnitudes). [default: {KEEP}]",
    )
    weights: int | None = option(None, "Number of weights that stay, instead of --keep.")
    norm: Literal["l0", "l1"] = option(
        "l0", "What is limited: the number of weights, or the sum of their magnitudes.", choices=("l0", "l1")
    )
    alpha: float | None = option(
        None,
        "Instead of a limit, a penalty: what a weight (l0), or a magnitude of 1 (l1), adds to the loss.",
        most=DEAREST,
    )
    per_layer: bool = option(False, "The same limit for each layer, not one for all together.")

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep <= 1:
            raise UsageError("--keep must be over 0 and at most 1", why=f"found {self.keep:g}")
        if self.weights is not None and self.weights < 1:
            raise UsageError("--weights must be at least 1", why=f"found {self.weights}")
        if self.keep is not None and self.weights is not None:
            raise UsageError("--keep and --weights exclude each other", fix="give one of them")
        if self.weights is not None and self.norm == "l1":
            raise UsageError(
                "--weights is for --norm l0", why="l1 limits the sum of magnitudes", fix="use --keep"
            )
        if self.alpha is not None:
            self._check_penalty()
        super().__post_init__()

    def _check_penalty(self) -> None:
        assert self.alpha is not None
        if not self.alpha > 0:
            raise UsageError("--alpha must be positive", why=f"found {self.alpha}")
        for name in ("keep", "weights"):
            if getattr(self, name) is not None:
                raise UsageError(f"--alpha and --{name} exclude each other", why="a penalty has no limit")
        if self.per_layer:
            raise UsageError("--per-layer is for limits", why="a penalty weighs every weight by itself")
        if self.mode != "lc":
            raise UsageError(
                f"--alpha needs --mode lc, not {self.mode}",
                why="a penalty is weighed against the loss in training",
            )

    def _kept(self, encoding: Encoding) -> str | None:
        return None if encoding.kind == "sparse" else super()._kept(encoding)

    def _parts(self, chosen: Chosen) -> tuple[list[Part], list[Refusal]]:
        from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415

        if self.alpha is not None and chosen.task is None:
            raise UsageError(
                "--alpha needs data", why="a penalty is weighed against the loss", fix="use --keep, or --data"
            )
        groups = [(n,) for n in chosen.arrays] if self.per_layer else [tuple(chosen.arrays)]
        return [Part(g, self._projection([chosen.arrays[n] for n in g])) for g in groups if g], []

    def _projection(self, arrays: Sequence[Array]) -> Projection:
        """Return Π for weights that are pruned jointly."""
        from onnxcompress.encodings.sparse import L0Penalty, L1Ball, L1Penalty, Pruning  # noqa: PLC0415

        if self.alpha is not None:
            return L0Penalty(self.alpha) if self.norm == "l0" else L1Penalty(self.alpha)
        if self.norm == "l0":
            return Pruning(self._share(arrays))
        whole = sum(float(abs(a.astype("float64")).sum()) for a in arrays)
        return L1Ball(max(self._share(arrays) * whole, 1e-30))

    def _share(self, arrays: Sequence[Array]) -> float:
        """Return the share of these weights that stays."""
        if self.weights is not None:
            return min(1.0, self.weights / max(1, sum(a.size for a in arrays)))
        return KEEP if self.keep is None else self.keep

    def _worthwhile(
        self, parts: Sequence[Part], direct: Mapping[str, Encoding], chosen: Chosen
    ) -> tuple[list[Part], list[Refusal]]:
        """Leave weights alone that pruned by themselves would not get smaller.

        How a joint limit is dealt among layers is found in training only. What stays of the others is
        ``--weights`` again.
        """
        from onnxcompress.encodings.sparse import Pruning  # noqa: PLC0415
        from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415

        alone, arrays = dict(direct), chosen.arrays
        if self.norm == "l0" or self.alpha is not None:
            for part in parts:
                share = KEEP if self.alpha is not None else self._share([arrays[n] for n in part.weights])
                alone |= {n: Pruning(share).project([arrays[n]])[0] for n in part.weights}
        kept, refusals = super()._worthwhile(parts, alone, chosen)
        return [Part(p.weights, self._projection([arrays[n] for n in p.weights])) for p in kept], refusals

    def _warnings(self, chosen: Chosen, encodings: Mapping[str, Encoding]) -> list[str]:
        return [zeros_warning(chosen.model.opset)]

    def _untrained_warnings(self, chosen: Chosen, encodings: Mapping[str, Encoding]) -> list[str]:
        total = sum(chosen.arrays[n].size for n in encodings)
        stay = sum(int((e.decode() != 0).sum()) for e in encodings.values()) / total
        advice = untrained_advice(chosen.task)
        if stay < 0.3:
            return [
                f"keeping {stay:.0%} of the weights without training usually makes a model unusable; {advice}"
            ]
        if stay < 0.6:
            return [f"keeping {stay:.0%} of the weights without training is marginal; {advice}"]
        return []
