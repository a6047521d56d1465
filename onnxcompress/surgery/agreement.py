"""Do two graphs compute the same, place by place, as far as rounding lets one tell? In float64, in torch.

Two graphs that differ only in channels which are zero sum the same numbers, in another order. What that may
do to a value depends on how well conditioned it is, so it is measured: the first graph runs once more with
every weight off by a few units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model
from onnxcompress.core.task import Feeds
from onnxcompress.engine.scores import made_alike, ways

if TYPE_CHECKING:
    import torch

    from onnxcompress.engine.graph.torchgraph import TorchGraph

ULPS = 2.0**-50
"""How far weights are off, relative, when rounding is measured: four units in the last place of float64."""

SINGLE_ULP = 2.0**-23
"""The same for what operators give that have to run in float32, and for what a float32 bias took in."""

NOISE_SLACK = 4.0
"""So many times what float32 costs an output, a difference in onnxruntime is still rounding."""

LEAST = 1e-13
"""Relative differences up to this are rounding in any case."""

SLACK = 100.0
"""So many times what was measured, a difference is still rounding."""

_AGAIN = (1.0, 1.0, 4.0, 16.0, 16.0)
"""Measured again like this, in ``ULPS``, where a difference looks like more than rounding."""

Shown = dict[str, Any]
"""Place or output -> what was there: tensor, array, list."""


@dataclass
class Agreement:
    """Gathers how far a graph is from another.

    Attributes:
        error: largest relative difference that was found.
        floor: what rounding did at the place of that difference.
        worst: the place with a difference that rounding does not explain; None: there is none.
        single: operators that ran in float32.
        speaking: places whose values were neither all zero nor all no numbers, on some input.
        drowned: places that differ, and that rounding alone turns into something else, as it does decisions.
    """

    error: float = 0.0
    floor: float = 0.0
    worst: tuple[str, float, float] | None = None
    single: tuple[str, ...] = ()
    speaking: set[str] = field(default_factory=set)
    drowned: set[str] = field(default_factory=set)


class Comparison64:
    """Runs two graphs in float64 on the same inputs.

    Args:
        expected: the model that is right.
        found: the model in question.
        places: values that both compute, besides their outputs, in the order of the graph.
        parts: place -> axis -> which positions the second model has of those of the first.
        weights: names of the weights that are off when rounding is measured.
        rounded: values that the second model computes from something rounded to its storage type -> by how
            much they are off, relative.

    Decisions made of other outputs are drowned where they differ: those others have to agree.
    """

    def __init__(
        self,
        expected: Model,
        found: Model,
        places: Sequence[str],
        parts: Mapping[str, Mapping[int, Array]],
        weights: Sequence[str],
        *,
        rounded: Mapping[str, float],
    ) -> None:
        import torch  # noqa: PLC0415

        from onnxcompress.engine.graph.torchgraph import TorchGraph  # noqa: PLC0415

        self._expected = TorchGraph(expected, dtype=torch.float64)
        self._found = TorchGraph(found, dtype=torch.float64)
        self._places, self._parts = places, parts
        self._weights = [w for w in weights if w in expected.weights]
        self._rounded = rounded
        self._decided = made_alike(expected.ir, found.ir, ways(expected))
        self.agreement = Agreement()
        self._floors: dict[str, float] = {}

    def add(self, feeds: Feeds) -> Shown:
        """Compare on one input; returns the outputs of the first model, in float64."""
        expected = self._show(self._expected, {})
        outputs = self._expected.run(feeds)
        self._expected.hooks.clear()
        expected |= outputs
        self.agreement.single = self._single()
        order = list(expected)
        if not self._floors:
            self._widen(self._floors, feeds, expected, ULPS, seed=0)
        # What rounding does hardly depends on the input: measured once, and again where it matters.
        floors = dict(self._floors)
        errors = self._errors(feeds, expected)
        suspicious = [p for p in order if not _explained(errors[p], floors[p])]
        for number, times in enumerate(_AGAIN if suspicious else ()):
            self._widen(floors, feeds, expected, times * ULPS, seed=number + 1)
        found = self.agreement
        for place in order:
            if _speaks(expected[place]):
                found.speaking.add(place)
            error, floor = errors[place], floors[place]
            if place in self._decided and not _explained(error, floor):
                found.drowned.add(place)
            elif not _explained(error, floor):
                found.worst = found.worst or (place, error, floor)
            elif not np.isfinite(floor):
                if error > 0:
                    found.drowned.add(place)
            elif np.isfinite(error) and (error, floor) > (found.error, found.floor):
                found.error, found.floor = error, floor
        return outputs

    def _show(self, graph: TorchGraph, more: Mapping[str, Callable[..., Any]]) -> Shown:
        """Let a graph note what is at each place when it runs."""
        import torch  # noqa: PLC0415

        shown: Shown = {}

        def note(place: str) -> Callable[[torch.Tensor], torch.Tensor]:
            inner = more.get(place)

            def hook(value: torch.Tensor) -> torch.Tensor:
                value = value if inner is None else inner(value)
                # A weight that a node hands on as it is (all of it sliced) is no array while it may learn.
                shown[place] = value.detach() if isinstance(value, torch.Tensor) else value
                return value

            return hook

        graph.hooks.clear()
        graph.hooks.update(more)
        graph.hooks.update({place: note(place) for place in self._places})
        return shown

    def _errors(self, feeds: Feeds, expected: Shown) -> dict[str, float]:
        shown = self._show(self._found, {})
        shown |= self._found.run(feeds)
        self._found.hooks.clear()
        return {
            place: distance(_part(value, self._parts.get(place, {})), shown.get(place))
            for place, value in expected.items()
        }

    def _widen(self, floors: dict[str, float], feeds: Feeds, expected: Shown, size: float, seed: int) -> None:
        """Run the first model with weights off by ``size``, and note where that moves values further."""
        import torch  # noqa: PLC0415

        generator = torch.Generator().manual_seed(seed)

        def off(amount: float) -> Callable[[torch.Tensor], torch.Tensor]:
            def hook(value: torch.Tensor) -> torch.Tensor:
                if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                    return value
                noise = torch.rand(value.shape, generator=generator, dtype=value.dtype) * 2 - 1
                return value * (1 + amount * noise)

            return hook

        hooks: dict[str, Callable[..., Any]] = {name: off(size) for name in self._weights}
        hooks |= {name: off(amount) for name, amount in self._rounded.items()}
        hooks |= {name: off(SINGLE_ULP) for name in self._single_outputs()}
        shown = self._show(self._expected, hooks)
        shown |= self._expected.run(feeds)
        self._expected.hooks.clear()
        for place, value in expected.items():
            floors[place] = max(floors.get(place, 0.0), distance(value, shown.get(place)))

    def _single(self) -> tuple[str, ...]:
        steps = [s for s, e in self._expected.executors.items() if e.way == "onnxruntime" and any(s.fed)]
        return tuple(sorted({step.node.op_type for step in steps}))

    def _single_outputs(self) -> list[str]:
        steps = [s for s, e in self._expected.executors.items() if e.way == "onnxruntime" and any(s.fed)]
        return [v.name for step in steps for v in step.source.outputs if v.name]


def drowns(noise: float) -> bool:
    """Tell whether float32 costs an output so much that nothing else can be seen in onnxruntime."""
    return not NOISE_SLACK * noise < 1


def _explained(error: float, floor: float) -> bool:
    return error <= max(LEAST, SLACK * floor)


def _part(value: Any, axes: Mapping[int, Array]) -> Any:
    for axis, mask in axes.items():
        value = np.compress(mask, np.asarray(value), axis=axis)
    return value


def distance(expected: Any, found: Any) -> float:
    """Return the largest difference relative to the largest value; infinity where that cannot be said.

    Numbers that are no numbers must be so in both. Sequences and maps are compared entry by entry.
    """
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        if len(expected) != len(found):
            return float("inf")
        return max((distance(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        same = list(expected) == list(found)
        return distance(list(expected.values()), list(found.values())) if same else float("inf")
    if found is None or expected is None:
        return 0.0 if found is expected else float("inf")
    a, b = np.asarray(expected), np.asarray(found)
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind not in "f" or b.dtype.kind not in "f":
        return 0.0 if np.array_equal(a, b) else float("inf")
    difference = scale = 0.0
    flat, other = a.reshape(-1), b.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        x = flat[start : start + _CHUNK].astype(np.float64, copy=False)
        y = other[start : start + _CHUNK].astype(np.float64, copy=False)
        finite = np.isfinite(x)
        if not np.array_equal(finite, np.isfinite(y)):
            return float("inf")
        if not finite.all():
            x, y = x[finite], y[finite]
        difference = max(difference, float(np.abs(x - y).max(initial=0.0)))
        scale = max(scale, float(np.abs(x).max(initial=0.0)))
    return 0.0 if difference == 0 else difference / scale if scale > 0 else float("inf")


_CHUNK = 1 << 18
"""Elements looked at together."""


def _speaks(value: Any) -> bool:
    """Tell whether a value is neither zero everywhere nor free of numbers."""
    if isinstance(value, (list, tuple)):
        return any(_speaks(v) for v in value)
    if isinstance(value, Mapping):
        return any(_speaks(v) for v in value.values())
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        return array.size > 0
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        if np.any(part[np.isfinite(part)] if part.dtype.kind == "f" else part):
            return True
    return False
