"""int8: layers compute with 8-bit integers, through onnxruntime's own quantiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxcompress.core.errors import UsageError
from onnxcompress.methods._base import METHODS, Method, Needs, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.core.model import Model
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.refusal import Refusal
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task
    from onnxcompress.engine.int8.choice import Candidate
    from onnxcompress.engine.int8.limits import Limits
    from onnxcompress.engine.int8.prepare import Prepared

CALIBRATED = 100
"""Examples that ranges are found on, unless told otherwise."""


@METHODS.register("int8")
@dataclass(frozen=True)
class Int8(Method):
    """Activations of 8 bits (unsigned) and weights of 8 bits (signed, one scale an output channel).

    Convolutions get calibrated activations (QuantizeLinear, DequantizeLinear around them); matrix products
    those, or activations measured at each run (MatMulInteger). What is fastest on this machine is found by
    measuring, layers that break a limit on the outputs stay float. Use it last: it rewrites the graph.

    Raises:
        UsageError: an option is out of range.
    """

    name: ClassVar[str] = "int8"
    source: ClassVar[str] = (
        "Jacob et al. (2018), Quantization and training of neural networks for efficient "
        "integer-arithmetic-only inference; onnxruntime's quantiser"
    )
    needs: ClassVar[Needs] = Needs.INPUTS
    last: ClassVar[bool] = True
    summary: ClassVar[str] = "8-bit arithmetic with onnxruntime's quantiser, where it is faster"

    way: Literal["auto", "static", "mixed", "dynamic", "fastest"] = option(
        "auto",
        "static: calibrated activations everywhere; dynamic: matrix products only, activations measured at "
        "each run; mixed: convolutions static, products dynamic; auto: the fastest of these here; fastest: "
        "as auto, but the model stays float where 8 bits are not measurably faster.",
        choices=("auto", "static", "mixed", "dynamic", "fastest"),
    )
    calibration: Literal["auto", "minmax", "mse"] = option(
        "auto",
        "Ranges of activations: all that was seen, or clipped for the least mean square error; auto: what "
        "moves the outputs less.",
        choices=("auto", "minmax", "mse"),
    )
    calib_samples: int = option(CALIBRATED, "Training examples that ranges are found on.")
    max_error: float | None = option(
        None, "Leave layers float until no output moves by more than this (relative l2, held-out examples)."
    )
    include: tuple[str, ...] = option((), "Quantise only layers whose weight's, or node's, name matches.")
    exclude: tuple[str, ...] = option((), "Leave layers float whose weight's, or node's, name matches.")

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))
        if self.calib_samples < 1:
            raise UsageError("--calib-samples must be at least 1", why=f"found {self.calib_samples}")
        if self.max_error is not None and not self.max_error > 0:
            raise UsageError("--max-error must be positive", why=f"found {self.max_error:g}")

    def check(self, *, timed: bool) -> None:
        """Refuse to look for the fastest way where nothing may be timed."""
        if self.way == "fastest" and not timed:
            raise UsageError(
                "--way fastest has to measure latency, which is switched off",
                fix="leave out --no-bench, or name a way",
            )

    def plan(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        """Find ranges, the layers that can be quantised within the limits, and the fastest way.

        Raises:
            UnsupportedError: onnxruntime's quantiser, or the operator set, does not allow it.
            UsageError: a glob matches nothing; the fastest way is asked for where nothing is measured.
        """
        from onnxcompress.core.plan import Plan  # noqa: PLC0415
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.int8.prepare import prepare  # noqa: PLC0415
        from onnxcompress.engine.int8.search import Search  # noqa: PLC0415
        from onnxcompress.engine.int8.telling import (  # noqa: PLC0415
            NOT_FASTER,
            advice,
            fastest,
            measured,
            pays,
            stored_weights,
            told,
        )

        assert task is not None, "the pipeline refuses before"
        self.check(timed=resources.stopwatch is not None)
        prepared = prepare(model, resources.input_shapes)
        chosen, refusals = self._choose(model, prepared)
        if not chosen:
            return Plan(refusals=tuple(refusals))
        limits = self._limits(model, task, resources)
        search = Search(
            model,
            prepared,
            chosen,
            task,
            limits,
            examples=self.calib_samples,
            how=None if self.calibration == "auto" else self.calibration,
            threads=resources.threads,
            progress=lambda what: resources.progress(0.0, what, None),
        )
        if len(search.boundless) == len(chosen):
            lost = [Refusal(prepared.weights.get(n, n), why) for n, why in search.boundless.items()]
            return Plan(refusals=(*refusals, *lost))
        ways = self._ways([c for c in chosen if c.node not in search.boundless])
        found = [search.find(way) for way in ways]
        broken = bool(limits) and not any(f.holds for f in found)
        found = [f for f in found if f.holds] or found
        ratios = measured(model, prepared, found, resources.stopwatch)
        best = fastest(found, ratios)
        stays: str | None = None
        if broken:
            stays = f"no choice of layers was found with which {limits.told} holds on held-out examples"
        elif self.way == "fastest" and not pays(best, ratios):
            stays = NOT_FASTER
        facts = told(
            search,
            found,
            best,
            ratios,
            stays=stays,
            task=task,
            limits=limits,
            chosen=chosen,
            prepared=prepared,
        )
        if stays is not None:
            refusals += [Refusal(layer.weight, stays) for layer in facts.layers]
            # What was prepared (operator set, weights that were inputs) goes with what is not written.
            warnings = (f"the model stays float: {stays}",)
            return Plan(refusals=tuple(refusals), warnings=warnings, quantized=facts)
        weights = stored_weights(model, prepared, chosen, best.decision)
        why = {prepared.weights.get(node, node): reason for node, reason in best.excluded.items()}
        left = {prepared.weights.get(c.node, c.tensor) for c in chosen} - set(weights) - set(why)
        why |= dict.fromkeys(left, f"stays float where products only are quantised (--way {best.way})")
        refusals += [Refusal(weight, reason) for weight, reason in why.items() if weight not in weights]
        return Plan(
            weights,
            refusals=tuple(refusals),
            warnings=(*prepared.warnings, *advice(best, ratios, limits, random_data=task.random)),
            quantization=best.decision,
            quantized=facts,
        )

    def _limits(self, model: Model, task: Task, resources: Resources) -> Limits:
        """Return what the outputs must hold against the uncut original, where there is one."""
        from onnxcompress.engine import runtime  # noqa: PLC0415
        from onnxcompress.engine.class_scores import unranked  # noqa: PLC0415
        from onnxcompress.engine.dense_proto import serialised  # noqa: PLC0415
        from onnxcompress.engine.int8.limits import Limits  # noqa: PLC0415
        from onnxcompress.engine.int8.search import JUDGED, calls_of  # noqa: PLC0415

        original = resources.teacher if resources.teacher is not None else model
        session = runtime.open_session(serialised(original), threads=resources.threads)
        calls = calls_of(task, "validation", JUDGED)
        return Limits(
            session.run,
            calls,
            task,
            max_error=self.max_error,
            gates=resources.limits,
            unranked=unranked(original, task),
        )

    def _ways(self, chosen: Sequence[Candidate]) -> tuple[str, ...]:
        """Return the ways worth trying: those that differ for these layers."""
        if self.way not in ("auto", "fastest"):
            return (self.way,)
        if not any(c.dynamic for c in chosen):
            return ("static",)
        return ("static", "dynamic") if all(c.dynamic for c in chosen) else ("static", "mixed", "dynamic")

    def _choose(self, model: Model, prepared: Prepared) -> tuple[list[Candidate], list[Refusal]]:
        """Return the layers that may be quantised, and why the others are not."""
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.engine.int8.choice import candidates  # noqa: PLC0415
        from onnxcompress.engine.layers import layers, left_alone, select  # noqa: PLC0415

        all_layers = layers(model)
        selected = {la.weight for la in select(all_layers, self.include, self.exclude, others=model.weights)}
        possible, reasons = candidates(prepared.proto)
        reasons = {prepared.weights.get(node, node): why for node, why in reasons.items()}
        known = {layer.weight for layer in all_layers}
        chosen, taken = [], set()
        for candidate in possible:
            weight = prepared.weights.get(candidate.node, candidate.tensor)
            # A layer that only optimisation made has no name that a glob could know.
            if weight in selected or (weight not in known and not self.include):
                chosen.append(candidate)
                taken.add(weight)
        refusals = []
        for layer in all_layers:
            if layer.weight in taken:
                continue
            why = reasons.get(layer.weight, "8-bit kernels know no such layer, or it is in a nested graph")
            dtype = model.weights[layer.weight].dtype
            if dtype.name != "float32":
                why = f"is {dtype.name}; 8-bit kernels start from float32"
            if layer.weight not in selected:
                why = "excluded by --exclude" if self.exclude else "not named by --include"
            refusals.append(Refusal(layer.weight, why))
        return chosen, [*refusals, *left_alone(model, all_layers)]
