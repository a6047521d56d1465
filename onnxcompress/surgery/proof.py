"""The proof that a cut removed only what it should, on every run, before anything is written.

*Silencing a group (its contribution to every consumer set to zero) and cutting it give the same values.*
Compared in float64 in torch at every place where channels are summed over and at the outputs, to the noise
floor, because in float32 a wrongly sliced weight can hide; and in onnxruntime at the outputs; on random
inputs and on given ones, in several sizes where the model leaves sizes open.

Where a normalisation looks at channels together, cutting changes what it computes of the others. It is shown
the survivors alone in the silenced model, so that the equality holds there too; how far that moves the
outputs from those of plain silencing is measured and told.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxcompress.core.channel_facts import CutProof
from onnxcompress.core.channels import Keep
from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import OnnxCompressError, UnsupportedError, VerificationError
from onnxcompress.core.model import Model
from onnxcompress.core.task import Feeds
from onnxcompress.engine import runtime
from onnxcompress.engine.channels import Channels, site_key
from onnxcompress.engine.measures import shapes as measured
from onnxcompress.engine.scores import made_alike, ways
from onnxcompress.surgery.agreement import NOISE_SLACK, Comparison64, distance, drowns
from onnxcompress.surgery.cutting import CutModel, cut
from onnxcompress.surgery.proof_inputs import HEAVY_MACS, random_inputs
from onnxcompress.surgery.reference import reference

ORT_TOLERANCE = 1e-4
"""Relative ℓ2 to which outputs must agree in onnxruntime, or ``NOISE_SLACK`` times what float32 costs."""

_NOISE = 1e-6
"""Outputs that differ by less than this, absolute, agree in onnxruntime: the last operator's own rounding."""

_PLACES_BYTES = 1 << 29
"""Places that would take more memory than this, in float64, are compared as far as it lasts."""


def prove(
    channels: Channels,
    keep: Keep,
    result: CutModel,
    constants: Mapping[str, Array] | None = None,
    *,
    feeds: Sequence[Feeds] = (),
    seed: int = 0,
) -> CutProof:
    """Prove that ``result = cut(channels, keep, constants)`` computes what silencing does.

    Args:
        channels: the analysed model.
        keep: group name -> which of its channels stay.
        result: the cut model.
        constants: as they were given to ``cut``.
        feeds: inputs to compare on, besides random ones.
        seed: of the random ones.

    Raises:
        VerificationError: it does not.
    """
    constants = constants or {}
    cuts = {name: mask for name, mask in keep.items() if not np.all(mask)}
    mixed = None
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        expected = reference(channels, cuts, constants)
        silent = _open(expected, Path(folder) / "silenced")
        drawn, sizes = random_inputs(channels, silent, seed)
        inputs = [*drawn, *feeds]
        precise = inputs[:1] if channels.macs({}) > HEAVY_MACS else inputs
        doubles = _compare64(
            channels, cuts, (expected, result.model), precise, _folded(channels, cuts, constants)
        )
        if result.folded:
            # A bias that took in a constant was rounded; all else is proven without constants, to the floor.
            plain = reference(channels, cuts, {}), cut(channels, cuts).model
            doubles = replace(_compare64(channels, cuts, plain, precise, {}), outputs=doubles.outputs)
        session = _open(result.model, Path(folder) / "cut")
        in_ort = _Ort(silent.run, session.run, made_alike(expected.ir, result.model.ir, ways(expected)))
        for index, feed in enumerate(inputs):
            in_ort.add(feed, doubles.outputs[index] if index < len(doubles.outputs) else None)
        if any(channels.group(name).mixed for name in cuts):
            blind = reference(channels, cuts, constants, survivors=False)
            before = _open(blind, Path(folder) / "blind")
            mixed = max(_real_change(before.run, session.run, feed) for feed in inputs)
    return CutProof(
        inputs=len(inputs),
        sizes=sizes,
        places=doubles.places,
        float64_error=doubles.error,
        float64_floor=doubles.floor,
        ort_error=in_ort.error,
        ort_tolerance=in_ort.tolerance,
        single_precision=doubles.single,
        mixed_difference=mixed,
        silent_outputs=doubles.silent,
        drowned_outputs=tuple(sorted(in_ort.drowned | doubles.drowned)),
    )


def _open(model: Model, folder: Path) -> runtime.OrtSession:
    folder.mkdir()
    try:
        return runtime.open_session(measured.openable(model.ir.clone(), folder))
    except UnsupportedError as error:
        raise VerificationError(
            "onnxruntime refuses the model without the channels that were cut", why=error.why or str(error)
        ) from error


@dataclass(frozen=True)
class _Doubles:
    """What the comparison in float64 gave; ``outputs`` are those of the silenced model, by input."""

    outputs: tuple[Mapping[str, Any], ...] = ()
    places: int = 0
    error: float = 0.0
    floor: float = 0.0
    single: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    drowned: frozenset[str] = frozenset()


def _folded(channels: Channels, keep: Keep, constants: Mapping[str, Array]) -> dict[str, float]:
    """Return what nodes give whose bias took in a constant -> how exact the bias is."""
    found = {}
    for name in keep:
        for site in channels.group(name).sites:
            value = site.node.inputs[site.slot]
            if site_key(site) in constants and value is not None:
                dtype = channels.ground.trace.dtypes.get(value) or ir.DataType.FLOAT
                found[site.node.outputs[0].name or ""] = float(ml_dtypes.finfo(dtype.numpy()).eps)  # type: ignore[no-untyped-call]
    return found


def _compare64(
    channels: Channels,
    keep: Keep,
    models: tuple[Model, Model],
    inputs: Sequence[Feeds],
    rounded: Mapping[str, float],
) -> _Doubles:
    """Compare in float64; raises VerificationError where a difference is more than rounding."""
    places = _places(channels)
    parts = {}
    for place in places:
        masks = {
            axis: mask
            for axis in range(len(channels.shape(place)))
            if (mask := channels.keep_along(place, axis, keep)) is not None
        }
        parts[place] = masks
    weights = sorted({site.weight for g in channels.groups for site in g.sites if site.weight is not None})
    outputs = []
    try:
        comparison = Comparison64(*models, places, parts, weights, rounded=rounded)
        for feed in inputs:
            outputs.append(comparison.add(feed))
    except UnsupportedError:
        # A node that runs in no other way than inside its whole model: onnxruntime has the last word.
        return _Doubles(single=("the whole graph",))
    agreement = comparison.agreement
    if agreement.worst is not None:
        place, error, floor = agreement.worst
        raise VerificationError(
            "cutting channels is not the same as silencing them",
            where=f"value {place!r}",
            why=f"it differs by {error:.2g} of its largest value, rounding explains {floor:.2g}",
            fix="nothing was written; please report this model",
        )
    names = list(outputs[0]) if outputs else []
    return _Doubles(
        tuple(outputs),
        len(places) + len(names),
        agreement.error,
        agreement.floor,
        agreement.single,
        tuple(name for name in names if name not in agreement.speaking),
        frozenset(names) & agreement.drowned & agreement.speaking,
    )


def _places(channels: Channels) -> list[str]:
    """Return the values that come from summing over channels, as many as fit into memory."""
    nodes = {site.node for group in channels.groups for site in group.sites}
    results = (value for node in channels.model.ir.graph if node in nodes for value in node.outputs)
    known = channels.ground.trace.shapes
    # What nothing reads is not computed, and may be gone after the cut.
    order = [v.name for v in results if v.name and v in known and (v.uses() or v.is_graph_output())]
    budget, chosen = _PLACES_BYTES, []
    for name in sorted(order, key=lambda name: int(np.prod(channels.shape(name)))):
        budget -= 8 * int(np.prod(channels.shape(name)))
        if budget < 0:
            break
        chosen.append(name)
    wanted = set(chosen)
    return [name for name in order if name in wanted]


Runs = Callable[[Feeds], Mapping[str, Any]]


class _Ort:
    """Compares outputs in onnxruntime, input by input; ``decided`` are decisions made of other outputs."""

    def __init__(self, expected: Runs, found: Runs, decided: Collection[str] = ()) -> None:
        self._expected, self._found, self._decided = expected, found, decided
        self.error, self.tolerance = 0.0, ORT_TOLERANCE
        self.drowned: set[str] = set()

    def add(self, feeds: Feeds, exact: Mapping[str, Any] | None) -> None:
        """Compare on one input; ``exact`` are the outputs in float64, where they are known."""
        try:
            expected, found = self._expected(feeds), self._found(feeds)
        except OnnxCompressError as problem:
            raise VerificationError(
                "the model without the channels that were cut does not run", why=problem.why or str(problem)
            ) from problem
        for name, value in expected.items():
            error = _relative_l2(value, found[name])
            noise = 0.0 if exact is None else _relative_l2(exact[name], value)
            if drowns(noise) or name in self._decided:
                if error > 0:
                    self.drowned.add(name)
                continue
            if _within_rounding(value, found[name]):
                error = min(error, ORT_TOLERANCE)
            allowed = max(ORT_TOLERANCE, NOISE_SLACK * noise)
            if error > allowed:
                raise VerificationError(
                    "cutting channels is not the same as silencing them in onnxruntime",
                    where=f"output {name!r}",
                    why=f"it differs by {error:.2g} relative l2, {allowed:.2g} is allowed",
                    fix="nothing was written; please report this model",
                )
            self.error, self.tolerance = max(self.error, error), max(self.tolerance, allowed)


def _real_change(silenced: Runs, cut: Runs, feeds: Feeds) -> float:
    """Return how far outputs move where a normalisation no longer sees what was cut."""
    before, after = silenced(feeds), cut(feeds)
    changes = [_relative_l2(value, after[name]) for name, value in before.items()]
    return max((c for c in changes if np.isfinite(c)), default=0.0)


def _relative_l2(expected: Any, found: Any) -> float:
    """Return ‖a − b‖ / ‖a‖, of what is no array of numbers 0 where it is equal, else infinity."""
    if not (isinstance(expected, np.ndarray) and isinstance(found, np.ndarray)) or expected.dtype.kind != "f":
        return distance(expected, found)
    if expected.shape != found.shape:
        return float("inf")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    difference, norm = float(np.linalg.norm((a - b)[finite])), float(np.linalg.norm(a[finite]))
    if difference == 0:
        return 0.0
    return difference / norm if norm > 0 else float("inf")


def _within_rounding(expected: Any, found: Any) -> bool:
    """Tell whether two outputs are as close as the last operator's own rounding in float32."""
    if not (isinstance(expected, np.ndarray) and isinstance(found, np.ndarray)) or expected.dtype.kind != "f":
        return False
    if expected.shape != found.shape or not np.array_equal(np.isfinite(expected), np.isfinite(found)):
        return False
    difference = (expected - found)[np.isfinite(expected)]
    return bool(np.abs(difference).max(initial=0.0) <= _NOISE)
