"""Running a model whose file fixes the batch with more examples at once.

Where a graph was written for a batch of one, constants repeat that one: the target of a Reshape, the
initial state of an LSTM, a class token that is concatenated. On steps that depend on what is fed, these are
widened to the batch that is fed. Whether the result is right is not argued but measured, against the
examples run one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch

from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.engine.graph.program import Step
from onnxcompress.engine.graph.values import Value
from onnxcompress.engine.graph.ways import Executor

_ROUNDING = 1e-4
_MISFITS = (
    OnnxCompressError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""How a graph that cannot take a batch fails, in whichever operator first minds the shape."""

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}


class Runnable(Protocol):
    """What is asked of a graph here; see :class:`~onnxcompress.engine.graph.torchgraph.TorchGraph`."""

    executors: dict[Step, Executor]

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the inputs to feed."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the outputs."""
        ...

    def declared(self, name: str) -> tuple[tuple[int | None, ...] | None, np.dtype[Any] | None]:
        """Return the declared shape and element type of an input."""
        ...

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return output name -> value."""
        ...


def fixed(inputs: Mapping[str, ir.Value]) -> dict[str, int]:
    """Return for each input whose first axis the file fixes, its length."""
    found = {}
    for name, value in inputs.items():
        shape = value.shape
        if shape is not None and len(shape) > 0 and isinstance(shape[0], int) and shape[0] > 0:
            found[name] = int(shape[0])
    return found


def times(fixed: Mapping[str, int], feeds: Mapping[str, Any]) -> int:
    """Return how many times the file's batch is fed; 1 where inputs disagree.

    Args:
        fixed: input name -> length of the first axis that the file fixes.
        feeds: input name -> what is fed.
    """
    factors = {
        feeds[name].shape[0] // batch if feeds[name].shape[0] % batch == 0 else 1
        for name, batch in fixed.items()
        if getattr(feeds.get(name), "ndim", 0) > 0
    }
    return factors.pop() if len(factors) == 1 else 1


def widen(step: Step, inputs: list[Value], batch: int, factor: int) -> list[Value]:
    """Return the inputs of a step with the file's batch replaced by ``factor`` times as many.

    Args:
        step: a step that depends on what is fed.
        inputs: its values.
        batch: the batch the file fixes.
        factor: how many times that batch is fed.
    """
    kind = step.node.op_type if not step.node.domain else ""
    if kind == "Reshape" and _constant(step, inputs, 1):
        return [inputs[0], _target(inputs[0], inputs[1], factor), *inputs[2:]]
    if kind in _STATES:
        result = list(inputs)
        for index in _STATES[kind]:
            state = result[index] if index < len(result) else None
            if isinstance(state, torch.Tensor) and state.dim() == 3 and state.shape[1] == batch:
                result[index] = state.repeat(1, factor, 1)
        return result
    if kind == "Resize" and _constant(step, inputs, 3):
        sizes = inputs[3].clone()
        if not step.node.get("axes") and sizes.numel() and int(sizes[0]) == batch:
            sizes[0] = batch * factor
        return [*inputs[:3], sizes, *inputs[4:]]
    if kind == "Concat" and step.node.get("axis", 1) != 0:
        return [_repeated(value, inputs, batch, factor) for value in inputs]
    return inputs


def _constant(step: Step, inputs: list[Value], index: int) -> bool:
    """Return whether an input says the same whatever is fed; a computed shape is right already."""
    return len(inputs) > index and isinstance(inputs[index], torch.Tensor) and not step.fed[index]


def _target(x: Value, target: torch.Tensor, factor: int) -> torch.Tensor:
    """Return a Reshape's target for ``factor`` times the elements.

    Examples lie one after the other in memory, so it is the leading axis that becomes longer, whether it
    counts examples or something else.
    """
    sizes = [int(v) for v in target.tolist()]
    if not sizes or sizes[0] <= 0 or not isinstance(x, torch.Tensor):
        return target
    known = math.prod(x.shape[k] if v == 0 and k < x.dim() else v for k, v in enumerate(sizes) if v != -1)
    fits = x.numel() % (known * factor) == 0 if -1 in sizes else x.numel() == known * factor
    if not fits:
        return target
    wide = target.clone()
    wide[0] = sizes[0] * factor
    return wide


def _repeated(value: Value, others: list[Value], batch: int, factor: int) -> Value:
    wide = any(isinstance(o, torch.Tensor) and o.dim() > 0 and o.shape[0] == batch * factor for o in others)
    if wide and isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == batch:
        return value.repeat(factor, *([1] * (value.dim() - 1)))
    return value


def measured(graph: Runnable, feeds: Sequence[Mapping[str, Any]] | None) -> bool:
    """Return whether examples run together give what they give one by one.

    Args:
        graph: the graph.
        feeds: single examples; None: three seeded random ones of the declared types and shapes.
    """
    kept = {step: (executor.way, dict(executor.reasons)) for step, executor in graph.executors.items()}
    examples = list(feeds) if feeds is not None else _random_examples(graph)
    if len(examples) < 2 or not graph.inputs:
        return False
    try:
        together = graph.run({n: np.concatenate([np.asarray(e[n]) for e in examples]) for n in graph.inputs})
        alone = [graph.run(example) for example in examples]
    except _MISFITS:
        return False
    finally:
        # What an attempt with a batch went through says nothing about the graph as it is run.
        for step, (way, reasons) in kept.items():
            graph.executors[step].way, graph.executors[step].reasons = way, reasons
    return all(_equal(together[name], [outputs[name] for outputs in alone]) for name in graph.outputs)


def _equal(together: Any, alone: list[Any]) -> bool:
    if not isinstance(together, np.ndarray) or any(np.ndim(a) == 0 for a in alone):
        return False
    parts = np.concatenate(alone)
    if together.shape != parts.shape:
        return False
    if parts.dtype.kind != "f":
        return bool(np.array_equal(together, parts))
    # A larger batch is summed in another order: equality holds to rounding, measured example by example.
    ends = np.cumsum([len(a) for a in alone])[:-1]
    pairs = zip(np.split(together, ends), alone, strict=True)
    return all(np.linalg.norm((a - b).ravel()) <= _ROUNDING * np.linalg.norm(b.ravel()) for a, b in pairs)


def _random_examples(graph: Runnable, count: int = 3) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    examples = []
    for _ in range(count):
        example = {}
        for name in graph.inputs:
            shape, dtype = graph.declared(name)
            if shape is None or dtype is None or dtype.kind not in "fiub":
                return []
            sizes = [1 if d is None else d for d in shape]
            if dtype.kind == "f":
                example[name] = generator.standard_normal(sizes).astype(dtype)
            else:
                example[name] = generator.integers(0, 2, sizes).astype(dtype)
        examples.append(example)
    return examples
