"""The search for what can compute with 8 bits: ranges, limits on the outputs, layers that break them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from onnxcompress.core.model import Model
from onnxcompress.core.quantization import Quantization
from onnxcompress.core.task import Feeds, Task
from onnxcompress.engine import runtime
from onnxcompress.engine.damage import Computes, Yardstick
from onnxcompress.engine.dense_proto import serialised
from onnxcompress.engine.int8.calibration import How, Range, Recorder
from onnxcompress.engine.int8.choice import Candidate, carriers
from onnxcompress.engine.int8.kernels import sums_overflow
from onnxcompress.engine.int8.limits import Limits
from onnxcompress.engine.int8.prepare import Prepared
from onnxcompress.engine.quantizer import quantized

JUDGED = 64
"""Held-out examples the outputs are judged on."""

RANKED = 512
"""Runs of the model that ranking all layers may take; each layer gets its share, 4 to 16 examples."""

WAYS = ("static", "mixed", "dynamic")
"""static: all layers with calibrated activations; mixed: convolutions so, products with activations measured
at each run; dynamic: products only, at each run."""


@dataclass(frozen=True)
class Found:
    """A decision and what it costs.

    Attributes:
        way: one of ``WAYS``.
        decision: what is quantised.
        model: the quantised graph, serialised.
        relative_l2: change of the outputs against the model before.
        holds: whether the limits hold.
        excluded: node -> why it stays float.
    """

    way: str
    decision: Quantization
    model: bytes
    relative_l2: float
    holds: bool
    excluded: Mapping[str, str]


class Search:
    """Tries decisions on one model and data.

    Args:
        model: what is quantised.
        prepared: its graph, ready to be quantised.
        candidates: the layers that may be quantised.
        task: calibrates on its training examples, judges on its validation examples.
        limits: what the outputs must hold.
        examples: training examples to calibrate with.
        how: how ranges are found; None: whatever costs less.
        threads: onnxruntime's threads.
        progress: told what is being done.
    """

    def __init__(
        self,
        model: Model,
        prepared: Prepared,
        candidates: Sequence[Candidate],
        task: Task,
        limits: Limits,
        *,
        examples: int,
        how: How | None,
        threads: int = 1,
        progress: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._prepared, self._candidates, self._limits = prepared, tuple(candidates), limits
        self._threads, self._progress, self._how = threads, progress, how
        self._narrow = sums_overflow()
        self._calibrating = calls_of(task, "train", examples)
        self.examples = min(examples, len(task.train))
        judged = calls_of(task, "validation", JUDGED)
        self.yardstick = Yardstick(self._computes(serialised(model)), judged, without=task.decided)
        self.damages: dict[str, dict[str, float]] = {}

    @property
    def calibration(self) -> str:
        """How ranges were found."""
        return self._ranges[0]

    @cached_property
    def _recorder(self) -> Recorder:
        """What ran on the calibration data, and knows what was seen of every activation."""
        self._progress("calibrating")
        recorder = Recorder(self._prepared.proto, threads=self._threads)
        recorder.minmax(self._calibrating)
        return recorder

    @cached_property
    def boundless(self) -> Mapping[str, str]:
        """The layers that 8 bits cannot be had for, node -> why: what they read or make has no range."""
        nodes = {node.name: node for node in self._prepared.proto.graph.node}
        why = {}
        for candidate in self._candidates:
            node = nodes[candidate.node]
            lost = [name for name in (node.input[0], node.output[0]) if name in self._recorder.boundless]
            if lost:
                why[node.name] = f"'{lost[0]}' is infinite or no number on all calibration data"
        return why

    @cached_property
    def _ranges(self) -> tuple[How, Mapping[str, Range]]:
        full = dict(self._recorder.ranges)
        if self._how == "minmax":
            return "minmax", full
        least = self._recorder.least_error(self._calibrating)
        if self._how == "mse":
            return "mse", least
        nodes = tuple(c.node for c in self._candidates if c.node not in self.boundless)
        errors = {}
        for how, ranges in (("minmax", full), ("mse", least)):
            decision = Quantization(nodes, self._carriers(nodes), (), ranges, self._narrow)
            errors[how] = self.yardstick.measure(self._computes(self._write(decision))).relative_l2()
        return ("minmax", full) if errors["minmax"] <= errors["mse"] else ("mse", least)

    def _carriers(self, static: Sequence[str]) -> tuple[str, ...]:
        return carriers(self._prepared.proto, static, self._recorder.boundless) if static else ()

    def decide(self, way: str, without: frozenset[str] = frozenset()) -> Quantization:
        """Return the decision of one way, with some layers left float."""
        chosen = [c for c in self._candidates if c.node not in without and c.node not in self.boundless]
        dynamic = tuple(c.node for c in chosen if c.dynamic and way != "static")
        static = tuple(c.node for c in chosen if c.node not in dynamic and way != "dynamic")
        ranges = self._ranges[1] if static else {}
        return Quantization(static, self._carriers(static), dynamic, ranges, self._narrow)

    def find(self, way: str) -> Found:
        """Return the decision of one way that leaves as few layers float as the limits allow."""
        self._progress(f"quantising, {way}")
        found = self._try(way, ())
        if found.holds or not self._limits:
            return found
        if not self._limits.hold(self._computes(self._prepared.proto.SerializeToString())):
            # Broken before anything was rounded: leaving layers float cannot help.
            return found
        ranking = self._ranking(way)
        low, high = 1, len(ranking)  # the smallest number of excluded layers with which the limits hold
        best = None
        while low <= high:
            middle = (low + high) // 2
            tried = self._try(way, ranking[:middle])
            if tried.holds:
                best, high = tried, middle - 1
            else:
                low = middle + 1
        return best if best is not None else found

    def _ranking(self, way: str) -> list[str]:
        """Return the layers this way quantises, the one that alone moves the outputs most first."""
        nodes = self.decide(way).nodes
        share = max(4, min(16, RANKED // max(1, len(nodes))))
        damages = {}
        for index, node in enumerate(nodes):
            self._progress(f"sensitivity of layer {index + 1} of {len(nodes)}, {way}")
            others = frozenset(n for n in nodes if n != node)
            decision = replace(self.decide(way, others), carriers=())
            damage = self.yardstick.measure(self._computes(self._write(decision)), most=share)
            damages[node] = damage.relative_l2()
        self.damages[way] = damages
        return sorted(damages, key=lambda n: -damages[n])

    def _try(self, way: str, excluded: Sequence[str]) -> Found:
        decision = self.decide(way, frozenset(excluded))
        model = self._write(decision)
        computes = self._computes(model)
        error = self.yardstick.measure(computes).relative_l2()
        limit = dict.fromkeys(excluded, f"left float, so that {self._limits.told} holds")
        why = {**self.boundless, **limit}
        return Found(way, decision, model, error, bool(decision.nodes) and self._limits.hold(computes), why)

    def _write(self, decision: Quantization) -> bytes:
        return bytes(quantized(self._prepared.proto, decision).SerializeToString())

    def _computes(self, model: bytes) -> Computes:
        return runtime.open_session(model, threads=self._threads).run


def calls_of(task: Task, split: str, most: int) -> list[Feeds]:
    """Return examples of a split, drawn by its seed, as feeds; one a call where the model allows it."""
    # Validation examples are in random order; those trained on are as they are stored, by class perhaps.
    drawn = np.random.default_rng([task.seed, 0xCA1B]).permutation(task.train)
    indices = (drawn if split == "train" else task.validation)[:most]
    stack = task.samples.inputs(indices)
    feeding = getattr(task.samples, "feeding", None)
    assert feeding is not None, "examples know how they are fed"
    return [feed for _, feed in feeding.calls(stack, 1)]
