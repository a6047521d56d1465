"""The three ways to execute a node, tried in order: own operator, onnx2torch's converter, onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import torch

from onnxcompress.core.errors import ExecutionError, OnnxCompressError, UnsupportedError
from onnxcompress.engine.graph import foreign_onnx2torch, roles
from onnxcompress.engine.graph.foreign_onnxruntime import ForeignNode
from onnxcompress.engine.graph.program import ABSENT, Program, Step
from onnxcompress.engine.graph.values import Value, computed, to_array, widened
from onnxcompress.ops._base import OPS, Node, NotCoveredError, Op

Way: TypeAlias = Literal["own", "onnx2torch", "onnxruntime"]

_FLOAT_CODES = frozenset({1, 10, 11, 16})


@dataclass(frozen=True)
class Setting:
    """How a graph computes: its floating type, its device, and whether it is being trained."""

    dtype: torch.dtype
    device: torch.device
    training: bool


def own_operator(node: Node) -> Op | None:
    """Return our operator for a node, None where there is none for its version."""
    op = OPS.get((node.domain, node.op_type))
    return op if op is not None and op.versions[0] <= node.version <= op.versions[1] else None


class Executor:
    """Executes one step; remembers the way that worked and why the ways before it did not.

    Attributes:
        way: the way the last execution went, or the first candidate before there was one.
        reasons: for each way that was tried and failed, why, in words.
    """

    def __init__(
        self, step: Step, program: Program, functions: Sequence[ir.Function], varying: frozenset[int]
    ) -> None:
        self.step = step
        self._fixed = [slot not in varying for slot in step.inputs]
        self.op = own_operator(step.node)
        self.reasons: dict[Way, str] = {}
        self._refused = self.op is None
        self._trusted = foreign_onnx2torch.trusted(step.node)
        self.way: Way = "own" if self.op else "onnx2torch" if self._trusted else "onnxruntime"
        self._converted: torch.nn.Module | None = None
        self._foreign: ForeignNode | None = None
        self._program, self._functions = program, functions
        self._host = roles.slots(roles.HOST, step.node)
        self._any_value = roles.among(roles.ANY_VALUE, step.node)
        self._widens = roles.among(roles.WIDENS, step.node)
        # In float64 a cast between floating types would throw the precision away that a proof needs.
        wide = step.node.op_type == "Cast" and step.node.get("to") in _FLOAT_CODES
        self._in_double = (
            replace(step.node, attributes={**step.node.attributes, "to": 11}) if wide else step.node
        )

    def __call__(
        self, inputs: list[Value], setting: Setting, runners: dict[str, Any] | None
    ) -> tuple[Value, ...]:
        """Run the node.

        Args:
            inputs: one value an input slot.
            setting: type, device, mode.
            runners: attribute name -> callable nested graph, None where the node has none.

        Raises:
            UnsupportedError: no way executes the node.
        """
        if self.op is not None:
            outputs = self._try("own", lambda: self._own(inputs, setting, runners))
            if outputs is not None:
                return outputs
        if self._trusted and self._refused:
            outputs = self._try("onnx2torch", lambda: self._convert(inputs, setting))
            if outputs is not None:
                return outputs
        return self._alone(inputs, setting)

    def _try(self, way: Way, run: Callable[[], Any]) -> tuple[Value, ...] | None:
        try:
            outputs = run()
        except (OnnxCompressError, torch.OutOfMemoryError):
            raise
        # A type or a shape that torch refuses may still be one that onnxruntime takes: any failure of a way
        # leads to the next, and the reason is kept for the report.
        except Exception as error:
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if self.step.blocks:
                # Alone in onnxruntime, a nested graph would miss the values it captures.
                kind = self.step.node.op_type
                raise UnsupportedError(f"{kind} fails", where=f"node {self.step.label!r}", why=why) from error
            self.reasons[way] = why
            self._refused = way == "own" and isinstance(error, NotCoveredError)
            return None
        self.way = way
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def _own(self, inputs: list[Value], setting: Setting, runners: dict[str, Any] | None) -> Any:
        assert self.op is not None
        node = self.step.training if setting.training else self.step.node
        if setting.dtype is torch.float64:
            node = self._in_double
        if runners is not None:
            node = replace(node, attributes={**node.attributes, **runners})
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        if self._widens:
            given = [widened(value) for value in given]
        elif not self._any_value and any(isinstance(value, np.ndarray) for value in given):
            raise NotCoveredError("a type torch does not have")
        if setting.device.type != "cpu":
            given = self._placed(given, setting.device)
        outputs = self.op.forward(node, *given)
        if isinstance(outputs, tuple):
            return tuple(computed(value, setting.dtype) for value in outputs)
        return computed(outputs, setting.dtype)

    def _placed(self, inputs: list[Value], device: torch.device) -> list[Value]:
        """Bring inputs together: data on the device if any is, shapes and counts on the host."""
        data = [
            isinstance(v, torch.Tensor) and v.device.type != "cpu"
            for k, v in enumerate(inputs)
            if k not in self._host
        ]
        there = any(data)
        return [
            value
            if not isinstance(value, torch.Tensor)
            else value.cpu()
            if k in self._host
            else value.to(device)
            if there
            else value
            for k, value in enumerate(inputs)
        ]

    def _convert(self, inputs: list[Value], setting: Setting) -> Any:
        if any(isinstance(value, (np.ndarray, list, dict)) for value in inputs):
            raise NotCoveredError("not tensors")
        constant = [f and v is not None for f, v in zip(self._fixed, inputs, strict=True)]
        if self._converted is None:
            stored = {
                k: onnx.numpy_helper.from_array(to_array(v)) for k, v in enumerate(inputs) if constant[k]
            }
            types = {
                k: onnx.helper.np_dtype_to_tensor_dtype(
                    to_array(v[:0]).dtype if v.dim() else to_array(v).dtype
                )
                for k, v in enumerate(inputs)
                if v is not None and not constant[k]
            }
            self._converted = foreign_onnx2torch.convert(
                self.step.source, self._program.opsets, stored, types
            )
        module = self._converted.to(setting.device)
        given = [v for v, c in zip(inputs, constant, strict=True) if v is not None and not c]
        outputs = module(*given)
        several = isinstance(outputs, (tuple, list))
        return (
            tuple(computed(v, setting.dtype) for v in outputs)
            if several
            else computed(outputs, setting.dtype)
        )

    def _alone(self, inputs: list[Value], setting: Setting) -> tuple[Value, ...]:
        if self._foreign is None:
            self._foreign = ForeignNode(
                self.step.source, self._program.opsets, self._program.ir_version, self._functions
            )
        try:
            outputs = self._foreign(inputs, self._fixed, setting.dtype, setting.device)
        except UnsupportedError as error:
            tried = "".join(f"; {way}: {why}" for way, why in self.reasons.items())
            raise ExecutionError(
                f"no way to execute operator {self.step.node.op_type!r} of version {self.step.node.version}",
                where=f"node {self.step.label!r}",
                why=f"{error.why}{tried}",
            ) from error
        self.way = "onnxruntime"
        return tuple(outputs)


def reads(step: Step) -> set[int]:
    """Return every slot a step reads, those captured by its nested graphs included."""
    return set(step.inputs).union(*(block.used for block in step.blocks.values())) - {ABSENT}
