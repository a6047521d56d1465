"""What quantising found, for the report: which way pays, what stays float, what to beware of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.model import Model
from onnxcompress.core.quantization import (
    Quantization,
    QuantizationFacts,
    QuantizedLayer,
    QuantizedWay,
)
from onnxcompress.core.resources import Stopwatch
from onnxcompress.core.run import LatencyRatio
from onnxcompress.core.task import Task
from onnxcompress.encodings.scaled import ScaledCodebook
from onnxcompress.engine.dense_proto import serialised
from onnxcompress.engine.int8.choice import Candidate
from onnxcompress.engine.int8.limits import Limits
from onnxcompress.engine.int8.prepare import Prepared
from onnxcompress.engine.int8.search import Found, Search
from onnxcompress.engine.layers import layers

FLOAT = "float"
"""The way that quantises nothing: the graph cleaned up, normalisation merged into convolutions."""

NOT_FASTER = "8-bit arithmetic is not measurably faster on this machine"

LARGE_ERROR = 0.1
"""Relative ℓ2 change of the outputs from which on a limit is advised."""


class EightBits(ScaledCodebook):
    """A weight as the quantiser stores it: 8-bit integers and a scale an output channel, not packed."""

    kind: ClassVar[str] = "int8"

    def stored_bits(self) -> int:
        """Bits of the integers, the scales, and a zero point of 8 bits beside each scale."""
        return 8 * self.codes.size + 8 * int(self.scales.nbytes) + 8 * self.scales.size

    def information_bits(self) -> float:
        """Bits of the integers and the scales."""
        return 8.0 * self.codes.size + 8.0 * self.scales.nbytes


def measured(
    model: Model, prepared: Prepared, found: Sequence[Found], stopwatch: Stopwatch | None
) -> Mapping[str, LatencyRatio]:
    """Return way -> latency divided by that of the model as it came; empty where nothing is measured."""
    if stopwatch is None:
        return {}
    models = {"before": serialised(model), FLOAT: prepared.proto.SerializeToString()}
    models |= {f.way: f.model for f in found}
    return {ratio.name: ratio for ratio in stopwatch(models)}


def fastest(found: Sequence[Found], ratios: Mapping[str, LatencyRatio]) -> Found:
    """Return the fastest way; not measured, the one that other measurements suggest."""
    if all(f.way in ratios for f in found):
        return min(found, key=lambda f: ratios[f.way].ratio)
    # Convolutions pay with calibrated activations, products with measured ones.
    order = ("mixed", "static", "dynamic") if len(found) > 2 else ("dynamic", "static", "mixed")
    return min(found, key=lambda f: order.index(f.way))


def pays(best: Found, ratios: Mapping[str, LatencyRatio]) -> bool:
    """Return whether 8 bits are measurably faster than the model before, and faster than it cleaned up."""
    ratio, plain = ratios[best.way], ratios[FLOAT]
    return ratio.verdict == "faster" and ratio.ratio < plain.ratio


def stored_weights(
    model: Model, prepared: Prepared, chosen: Sequence[Candidate], decision: Quantization
) -> dict[str, Encoding]:
    """Return how the weights that are quantised are stored: 8 bits and a scale an output channel."""
    axes = {layer.weight: layer.out_axis for layer in layers(model)}
    quantised = set(decision.nodes)
    found: dict[str, Encoding] = {}
    for candidate in chosen:
        weight = prepared.weights.get(candidate.node)
        if candidate.node in quantised and weight in axes:
            assert weight is not None
            most = 64 if decision.seven_bits else 127
            found[weight] = _eight_bits(model.array(weight), axes[weight] or 0, most)
    return found


def _eight_bits(array: Array, axis: int, most: int) -> ScaledCodebook:
    """Return a weight rounded to −most … most times a scale for each output channel."""
    rows = np.abs(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64))
    scales = rows.max(axis=1, initial=0.0) / most
    scales[scales == 0] = 1.0
    spread = scales.reshape(-1, *[1] * (array.ndim - axis - 1))
    codes = np.clip(np.rint(array / spread), -most, most) + most
    levels = np.arange(-most, most + 1).astype(array.dtype)
    return EightBits(codes.astype(np.uint8), levels, scales.astype(array.dtype), axis)


def told(
    search: Search,
    found: Sequence[Found],
    best: Found,
    ratios: Mapping[str, LatencyRatio],
    *,
    stays: str | None,
    task: Task,
    limits: Limits,
    chosen: Sequence[Candidate],
    prepared: Prepared,
) -> QuantizationFacts:
    """Return the facts of the report; ``stays`` is why the model stays float, None where it does not."""
    taken = best if stays is None else None
    ways = [_way(f.way, len(f.decision.nodes), f.relative_l2, ratios, f is taken) for f in found]
    if FLOAT in ratios:
        ways.append(_way(FLOAT, 0, 0.0, ratios, taken is None))
    static = set(taken.decision.static) if taken is not None else set()
    dynamic = set(taken.decision.dynamic) if taken is not None else set()
    damages = search.damages.get(best.way, {})
    rows = []
    for candidate in chosen:
        node = candidate.node
        way = "static" if node in static else "dynamic" if node in dynamic else "float"
        why = taken.excluded.get(node) if taken is not None else stays
        weight = prepared.weights.get(node, candidate.tensor)
        rows.append(QuantizedLayer(node, candidate.op_type, weight, way, why, damages.get(node)))
    return QuantizationFacts(
        calibration=search.calibration if static else "at each run",
        examples=search.examples if static else 0,
        random_data=task.random,
        limit=limits.told or None,
        ways=tuple(ways),
        layers=tuple(rows),
    )


def _way(
    name: str, count: int, error: float, ratios: Mapping[str, LatencyRatio], chosen: bool
) -> QuantizedWay:
    ratio = ratios.get(name)
    if ratio is None:
        return QuantizedWay(name, count, error, None, None, None, None, chosen)
    return QuantizedWay(name, count, error, ratio.ratio, ratio.low, ratio.high, ratio.verdict, chosen)


def advice(
    best: Found,
    ratios: Mapping[str, LatencyRatio],
    limits: Limits,
    *,
    random_data: bool,
) -> tuple[str, ...]:
    """Return sentences the user must see: slower than float, far off, calibrated on noise."""
    said = []
    if best.decision.seven_bits:
        said.append(
            "this processor cuts off sums of 8-bit products (it has no VNNI): weights are rounded to 7 bits"
        )
    ratio, plain = ratios.get(best.way), ratios.get(FLOAT)
    if ratio is not None and ratio.low > 1:
        said.append(
            f"8-bit arithmetic is slower than float on this machine ({ratio.ratio:.2f} times the latency): "
            "do not ship"
        )
    elif ratio is not None and plain is not None and plain.high < ratio.low:
        said.append(
            "8-bit arithmetic does not pay on this machine: in the same cleaned-up graph, float takes "
            f"{plain.ratio:.2f} of the latency before and 8 bits {ratio.ratio:.2f}: slower, do not ship"
        )
    if not limits and best.relative_l2 > LARGE_ERROR:
        said.append(
            f"8-bit arithmetic moves the outputs by {best.relative_l2:.2g} (relative l2); --max-error or "
            "--max-drop leaves the layers float that do this"
        )
    if random_data and best.decision.static:
        said.append("ranges of activations were found on random numbers: real inputs may be clipped")
    return tuple(said)
