"""Execution: a graph run on stacks of examples, together where that is right, else in the groups it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import torch

from onnxcompress.core.errors import UnsupportedError
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.graph.values import Value

AT_ONCE_BYTES = 256 << 20
"""What one step of the graph may read and give where examples are only looked at: beyond it calls take
fewer of them, so that memory lasts."""

MOST_AT_ONCE, LEAST_AT_ONCE = 512, 8
"""Examples of such a call: so few are looked at whatever they need."""


class Execution:
    """Runs a graph on a stack of examples.

    Args:
        graph: the graph.
        feeding: how examples become calls.
        probe: a stack of a few examples; whether they may be run together is measured with them.

    Attributes:
        group: examples a call takes at most; None: any number.
        at_once: examples that a call takes at most where they are only looked at.
        kept_bytes: what a gradient keeps of one example, about; 0 where examples are run one by one.
        outputs: the floating-point outputs with an example axis, those a loss can be taken of.
    """

    def __init__(self, graph: TorchGraph, feeding: Feeding, probe: Mapping[str, Value]) -> None:
        self.graph, self._feeding = graph, feeding
        self.group: int | None = 1 if feeding.whole else None
        count = len(next(iter(probe.values())))
        if not feeding.whole and not self._together(probe, count):
            self.group = feeding.fixed or 1
        self.outputs: tuple[str, ...] = ()
        self.at_once, self.kept_bytes = MOST_AT_ONCE, 0
        if self.group is None:
            self._bound(probe, count)
        with torch.no_grad():
            found = self.run(probe)
            steady = self._steady(probe, count)
        self.outputs = tuple(n for n, value in found.items() if value.is_floating_point() and n in steady)

    def _bound(self, probe: Mapping[str, Value], count: int) -> None:
        """Set what depends on the memory that an example needs: weights, which all share, aside."""
        step = self._feeding.fixed or 1
        one = self.graph.footprint({n: v[:step] for n, v in probe.items()})
        widest, given = one.widest, one.given
        if count >= 2 * step:
            two = self.graph.footprint({n: v[: 2 * step] for n, v in probe.items()})
            widest, given = two.widest - widest, two.given - given
        calls = min(AT_ONCE_BYTES // max(1, widest), MOST_AT_ONCE // step)
        self.at_once = max(calls, -(-LEAST_AT_ONCE // step)) * step
        self.kept_bytes = max(given, 0) // step

    def _together(self, probe: Mapping[str, Value], count: int) -> bool:
        step = self._feeding.fixed or 1
        feeds = [{n: v[s : s + step] for n, v in probe.items()} for s in range(0, count - step + 1, step)]
        if len(feeds) < 2:
            return count < 2 and self.graph.batchable()
        return self.graph.batchable(feeds)

    def _steady(self, probe: Mapping[str, Value], count: int) -> set[str]:
        """Return the outputs of one length for every example: together they cannot be told apart else."""
        step = self.group or self._feeding.fixed or 1
        alone = [self.call({n: v[s : s + step] for n, v in probe.items()}) for s in range(0, count, step)]
        names = set(alone[0]).intersection(*alone)
        return {name for name in names if len({part[name].shape[1:] for part in alone}) == 1}

    def slices(self, count: int, size: int) -> list[slice]:
        """Return how a stack of ``count`` is cut into calls of at most ``size`` examples."""
        step = min(size, self.group or size)
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def call(self, stack: Mapping[str, Value]) -> dict[str, torch.Tensor]:
        """Run one call; every tensor output that has one gets the example axis first, others are left out."""
        count = len(next(iter(stack.values())))
        if self._feeding.whole:
            results = self.graph({name: value[0, ...] for name, value in stack.items()})
            return {n: v[None] for n, v in results.items() if isinstance(v, torch.Tensor)}
        fixed = self._feeding.fixed or 1
        if count % fixed:
            rows = np.minimum(np.arange(-(-count // fixed) * fixed), count - 1)
            stack = {name: value[rows] for name, value in stack.items()}
        kept: dict[str, torch.Tensor] = {}
        for name, value in self.graph(stack).items():
            if not isinstance(value, torch.Tensor) or (self.outputs and name not in self.outputs):
                continue
            fed = len(next(iter(stack.values())))
            if value.dim() and len(value) and len(value) % fed == 0:
                # An output may merge the example axis with another: 2,152 boxes of two images.
                merged = len(value) // fed
                apart = value if merged == 1 else value.reshape(fed, merged, *value.shape[1:])
                kept[name] = apart if fed == count else apart[:count]
            elif count == 1 and self.group == 1:
                kept[name] = value[None]
        self._require(kept)
        return kept

    def run(self, stack: Mapping[str, Value], until: float = math.inf) -> dict[str, torch.Tensor]:
        """Run a stack in as many calls as it takes; in training mode by ``MOST_AT_ONCE``.

        From the moment ``until`` of ``time.monotonic`` on no further call is made once ``LEAST_AT_ONCE``
        examples are through: there are outputs of the first examples only, then. Outputs whose length differs
        from call to call are left out of a first look.

        Raises:
            UnsupportedError: it differs of one of ``outputs``.
        """
        count = len(next(iter(stack.values())))
        most = MOST_AT_ONCE if self.graph.training else self.at_once
        parts = []
        for s in self.slices(count, most):
            if s.start >= LEAST_AT_ONCE and time.monotonic() >= until:
                break
            parts.append(self.call({n: v[s] for n, v in stack.items()}))
        if len(parts) == 1:
            return parts[0]
        joined = {}
        for name in parts[0]:
            values = [part[name] for part in parts if name in part]
            if len(values) == len(parts) and len({v.shape[1:] for v in values}) == 1:
                joined[name] = torch.cat(values)
        self._require(joined)
        return joined

    def _require(self, found: Mapping[str, torch.Tensor]) -> None:
        for name in self.outputs:
            if name not in found:
                raise UnsupportedError(
                    f"output '{name}' cannot be trained towards",
                    why="its length depends on the values of the input",
                )
