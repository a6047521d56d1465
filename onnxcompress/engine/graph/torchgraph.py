"""TorchGraph: an ONNX graph executed in torch, so that its weights can be trained under their own names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError, UnsupportedError
from onnxcompress.core.model import Model
from onnxcompress.core.refusal import Refusal
from onnxcompress.engine import randomness
from onnxcompress.engine.graph import batch as graph_batch
from onnxcompress.engine.graph import gradients as graph_gradients
from onnxcompress.engine.graph import roles
from onnxcompress.engine.graph.footprint import Footprint
from onnxcompress.engine.graph.program import ABSENT, Block, Step, compile_model
from onnxcompress.engine.graph.values import Value, element_type, to_array, to_value
from onnxcompress.engine.graph.ways import Executor, Setting, Way, reads
from onnxcompress.ops import zipmap


class TorchGraph(nn.Module):
    """The graph of a model as torch module; a weight is one parameter under the name the model gives it.

    Half-precision models are computed in ``dtype``; their storage type is kept for ``arrays``. Constant
    parts of the graph are computed once. In training mode BatchNormalization uses the batch's statistics
    and updates the running ones, and Dropout drops; in evaluation mode, in which a graph starts, two runs
    give identical results.

    Args:
        model: the model; it is read, never changed.
        dtype: ``torch.float32``, or ``torch.float64`` for proofs.
        device: torch device; shape arithmetic stays on the CPU.

    Attributes:
        inputs: names of the inputs that must be fed.
        outputs: names of the outputs.
        trainable: names of the weights a gradient may change, in the model's order.
        momenta: names of running statistics -> the share of them that one batch leaves.
        hooks: value name -> function applied to that value wherever it is produced (a weight, an input, or
            a node's output; nested ones are named by their path, as weights are).
    """

    def __init__(
        self, model: Model, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__()
        self.model = model
        self.hooks: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
        self._dtype, self._device = dtype, torch.device(device)
        self._program = compile_model(model)
        self.inputs, self.outputs = self._program.inputs, self._program.outputs
        frozen = graph_gradients.not_trained(self._program)
        self._index = {name: k for k, name in enumerate(model.weights)}
        self._weight_list = nn.ParameterList(
            nn.Parameter(self._tensor(model.array(name)), requires_grad=name not in frozen)
            for name in model.weights
        )
        self.trainable: tuple[str, ...] = tuple(name for name in model.weights if name not in frozen)
        momenta = self._program.momenta()
        self.statistics = frozenset(n for n in frozen if n in self._program.weights) & momenta.keys()
        self.momenta = {name: momenta[name] for name in sorted(self.statistics)}
        changing = {*self.trainable, *self.statistics}
        graph_gradients.mark(
            self._program, frozenset(slot for n, slot in self._program.weights.items() if n in changing)
        )
        functions = tuple(model.ir.functions.values())
        self._varying = self._varying_slots()
        self.executors = {
            step: Executor(step, self._program, functions, self._varying) for step in self._program.steps
        }
        self._constants = {slot: self._constant(array) for slot, array in self._program.constants.items()}
        self._folded: dict[int, Value] | None = None
        self._folded_steps: frozenset[Step] = frozenset()
        self._idle: frozenset[Step] = frozenset()
        self._folded_without: frozenset[str] = frozenset()
        fed = {name: self._program.values[self._program.slots[name]] for name in self.inputs}
        self._batch = graph_batch.fixed(fed)
        self._maps = {
            self._program.names[step.outputs[0]]: zipmap.keys(step.node)
            for step in self._program.main.steps
            if step.node.op_type == "ZipMap" and step.outputs[0] in self._program.main.outputs
        }
        self._random = any(roles.among(randomness.EVER, step.node) for step in self._program.steps)
        self._batchable: bool | None = None
        self._setting = Setting(self._dtype, self._device, False)
        self._footprint: Footprint | None = None
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            lambda graph, keys: graph.set_arrays({})
        )
        self.eval()

    # weights -----------------------------------------------------------------------------------------------

    def weight(self, name: str) -> nn.Parameter:
        """Return the parameter of a weight."""
        parameter: nn.Parameter = self._weight_list[self._index[name]]
        return parameter

    def set_arrays(self, arrays: Mapping[str, Array]) -> None:
        """Set weights by name; raises ValueError where a shape differs."""
        with torch.no_grad():
            for name, array in arrays.items():
                parameter = self.weight(name)
                if tuple(array.shape) != tuple(parameter.shape):
                    raise ValueError(f"weight {name!r} has shape {tuple(parameter.shape)}, not {array.shape}")
                parameter.copy_(self._tensor(array))
        self._folded = None

    def arrays(self, names: Sequence[str] | None = None) -> dict[str, Array]:
        """Return weights in their storage types; all of them where no names are given."""
        chosen = list(self._index) if names is None else names
        return {
            name: self.weight(name).detach().cpu().numpy().astype(self.model.weights[name].dtype)
            for name in chosen
        }

    # running -----------------------------------------------------------------------------------------------

    def forward(self, feeds: Mapping[str, Any]) -> dict[str, Value]:
        """Run the graph.

        Args:
            feeds: input name -> tensor (or NumPy array; list for a sequence).

        Returns:
            Output name -> tensor; NumPy array, list or dict where the output is no tensor torch has. Class
            scores that the model gives as maps (ZipMap) are one tensor here, N C.

        Raises:
            DataError: an input is missing or unknown.
            UnsupportedError: a node cannot be executed in any way.
        """
        self._setting = Setting(self._dtype, self._device, self.training)
        with self._repeatable():
            env, factor = self._feed(feeds)
            self._run(self._program.main, env, factor)
        return {name: env[slot] for name, slot in self._results().items()}

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run the graph in evaluation mode, without gradient, on NumPy arrays.

        Floating-point outputs come in the type the model declares; in float64 where the graph computes so.
        """
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                outputs = self(feeds)
        finally:
            self.train(training)
        double = self._dtype is torch.float64
        types = {
            name: None if double else element_type(self._program.values[slot])
            for name, slot in self._results().items()
        }
        arrays = {name: to_array(value, types[name]) for name, value in outputs.items()}
        for name, labels in self._maps.items():
            if isinstance(arrays.get(name), np.ndarray):
                arrays[name] = [dict(zip(labels, row, strict=True)) for row in arrays[name].tolist()]
        return arrays

    @torch.no_grad()
    def footprint(self, feeds: Mapping[str, Any]) -> Footprint:
        """Run the graph without gradient and return what it needs of memory."""
        found = self._footprint = Footprint()
        try:
            self(feeds)
            return found
        finally:
            self._footprint = None

    def leave_out(self, outputs: Collection[str]) -> None:
        """Compute all outputs but these, and nothing that only these need."""
        self.outputs = tuple(name for name in self._program.outputs if name not in outputs)
        self._idle = self._program.idle(self.outputs) if outputs else frozenset()
        self._batchable = None

    def batchable(self, feeds: Sequence[Mapping[str, Any]] | None = None) -> bool:
        """Return whether several examples fed at once give what they give one by one; measured once.

        Args:
            feeds: two or more single examples to measure with; None: seeded random ones.
        """
        if self._batchable is None or feeds is not None:
            self._batchable = graph_batch.measured(self, feeds)
        return self._batchable

    def declared(self, name: str) -> tuple[tuple[int | None, ...] | None, np.dtype[Any] | None]:
        """Return the declared shape (None: not fixed) and element type of an input."""
        value = self._program.values[self._program.slots[name]]
        shape = None if value.shape is None else tuple(d if isinstance(d, int) else None for d in value.shape)
        return shape, None if value.dtype is None else np.dtype(value.dtype.numpy())

    # what is known -----------------------------------------------------------------------------------------

    def ways(self) -> dict[str, Way]:
        """Return for each node the way it is executed, as far as known before it has run."""
        return {step.label: executor.way for step, executor in self.executors.items()}

    def reasons(self) -> dict[str, str]:
        """Return for each node that our own operator refused, why."""
        return {
            step.label: executor.reasons["own"]
            for step, executor in self.executors.items()
            if "own" in executor.reasons
        }

    def without_gradient(self) -> tuple[Refusal, ...]:
        """Return the trainable weights that cannot receive a gradient, with the node that stops it.

        Complete after the graph has run once: only then it is known which nodes fell back to onnxruntime.
        """
        slots = {
            name: self._program.weights[name] for name in self.trainable if name in self._program.weights
        }
        missing = [Refusal(n, "is not part of the graph") for n in self.trainable if n not in slots]
        found = graph_gradients.without_gradient(self._program, slots, self._stops)
        return (*missing, *found)

    def _stops(self, step: Step) -> str | None:
        executor = self.executors[step]
        if executor.way == "onnxruntime":
            return "runs in onnxruntime, without gradient"
        if executor.op is not None and not executor.op.differentiable:
            return "has no gradient"
        if step.node.op_type == "Cast" and step.node.get("to") not in (1, 10, 11, 16):
            return "casts to a type without gradient"
        return None

    @contextmanager
    def _repeatable(self) -> Iterator[None]:
        """Give the random operators of a graph in evaluation mode the same numbers in every run."""
        if self.training or not self._random:
            yield
            return
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(0)
            yield

    # inside ------------------------------------------------------------------------------------------------

    def _results(self) -> dict[str, int]:
        """Return the slot of each output that is computed."""
        every = zip(self._program.outputs, self._program.main.outputs, strict=True)
        return {name: slot for name, slot in every if name in self.outputs}

    def _tensor(self, array: Array) -> torch.Tensor:
        value = to_value(np.array(array), self._dtype, self._device)
        assert isinstance(value, torch.Tensor)
        return value

    def _constant(self, array: Array) -> Value:
        # Integers are shapes, axes and indices: they stay where numbers are read without waiting for a GPU.
        device = self._device if array.dtype.kind in "fV" else torch.device("cpu")
        return to_value(array, self._dtype, device)

    def _varying_slots(self) -> frozenset[int]:
        changing = {
            self._program.weights[n]
            for n in (*self.trainable, *self.statistics)
            if n in self._program.weights
        }
        outputs = {s for step in self._program.steps if not step.fixed for s in step.outputs}
        nested = {s for step in self._program.steps for block in step.blocks.values() for s in block.inputs}
        return frozenset(changing | outputs | nested | set(self._program.slots.values()))

    def _feed(self, feeds: Mapping[str, Any]) -> tuple[list[Value], int]:
        """Return the values before the first step, and how many times the file's batch is fed."""
        unknown = [n for n in feeds if n not in self.inputs and n not in self._program.optional]
        missing = [n for n in self.inputs if n not in feeds]
        if unknown or missing:
            what = f"input {missing[0]!r} is missing" if missing else f"the model has no input {unknown[0]!r}"
            raise DataError(what, fix=f"it takes {', '.join(map(repr, self.inputs)) or 'nothing'}")
        self._fold()
        env: list[Value] = [None] * len(self._program.names)
        for slot, value in (self._folded or {}).items():
            env[slot] = value
        for name, slot in self._program.weights.items():
            env[slot] = self._hooked(slot, self.weight(name))
        for name, value in feeds.items():
            slot = self._program.slots[name]
            env[slot] = self._hooked(slot, self._given(value, slot))
        return env, graph_batch.times(self._batch, feeds)

    def _given(self, value: Any, slot: int) -> Value:
        if isinstance(value, (np.ndarray, np.generic, list)) or np.isscalar(value):
            value = to_value(value, self._dtype, self._device)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            double = element_type(self._program.values[slot]) is ir.DataType.DOUBLE
            return value.to(self._device, torch.float64 if double else self._dtype)
        return value.to(self._device) if isinstance(value, torch.Tensor) else value

    def _hooked(self, slot: int, value: Value) -> Value:
        hook = self.hooks.get(self._program.names[slot]) if self.hooks else None
        return value if hook is None or value is None else hook(value)

    def _fold(self) -> None:
        """Run the fixed steps once and keep what the others read."""
        hooked = frozenset(self.hooks)
        if self._folded is not None and hooked == self._folded_without:
            return
        self._folded_without = hooked
        env: list[Value] = [None] * len(self._program.names)
        known = set(self._constants)
        for slot, value in self._constants.items():
            env[slot] = self._hooked(slot, value)
        for name, slot in self._program.weights.items():
            if slot not in self._varying and self._program.names[slot] not in hooked:
                env[slot] = self.weight(name).detach()
                known.add(slot)
        done = set()
        touched = {slot for slot, name in enumerate(self._program.names) if name in hooked}
        for step in self._program.steps:
            inner = (s for b in step.blocks.values() for n in b.walk() for s in n.outputs)
            if not step.fixed or not reads(step) <= known or touched & {*step.outputs, *inner}:
                continue
            try:
                with torch.no_grad():
                    self._step(step, env, 1)
            except UnsupportedError:
                # Part of a branch that is never taken, perhaps: whoever runs it gets the error.
                continue
            known.update(s for s in step.outputs if s != ABSENT)
            done.add(step)
        self._folded_steps = frozenset(done)
        wanted = set(self._program.main.outputs)
        for step in self._program.steps:
            wanted |= set() if step in done else reads(step)
            wanted.update(s for block in step.blocks.values() for s in block.outputs)
        self._folded = {slot: env[slot] for slot in known & wanted}

    def _run(self, block: Block, env: list[Value], factor: int) -> None:
        for step in block.steps:
            if step in self._folded_steps or step in self._idle:
                continue
            self._step(step, env, factor)
            for slot in step.free:
                env[slot] = None

    def _step(self, step: Step, env: list[Value], factor: int) -> None:
        inputs = [None if slot == ABSENT else env[slot] for slot in step.inputs]
        if factor != 1 and any(step.fed):
            inputs = graph_batch.widen(step, inputs, next(iter(self._batch.values())), factor)
        runners = {n: _Runner(self, b, env, factor) for n, b in step.blocks.items()} if step.blocks else None
        outputs = self.executors[step](inputs, self._setting, runners)
        if self._footprint is not None:
            self._footprint.add(inputs, outputs)
        for slot, value in zip(step.outputs, outputs, strict=False):
            if slot != ABSENT:
                env[slot] = self._hooked(slot, value)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> TorchGraph:
        """Follow ``to(device)``: constants move with the parameters."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if len(self._weight_list):
            self._device = self._weight_list[0].device
        self._constants = {slot: self._constant(array) for slot, array in self._program.constants.items()}
        self._folded = None
        return self


class _Runner:
    """A nested graph as the callable its operator calls; captured values are those of the run under way."""

    def __init__(self, graph: TorchGraph, block: Block, env: list[Value], factor: int) -> None:
        self._graph, self._block, self._env, self._factor = graph, block, env, factor
        self.outputs = len(block.outputs)

    def __call__(self, *inputs: Value) -> list[Value]:
        for slot, value in zip(self._block.inputs, inputs, strict=False):
            self._env[slot] = self._graph._hooked(slot, value)
        self._graph._run(self._block, self._env, self._factor)
        return [self._env[slot] for slot in self._block.outputs]

    def empty(self, index: int) -> torch.Tensor:
        """Return an empty tensor of an output's declared type: no iterations, so length 0 on a new axis."""
        declared = self._graph._program.values[self._block.outputs[index]]
        shape = [d if isinstance(d, int) else 0 for d in declared.shape] if declared.shape is not None else []
        element = declared.dtype.numpy() if declared.dtype is not None else np.dtype(np.float32)
        value = to_value(np.zeros((0, *shape), element), self._graph._dtype, self._graph._device)
        assert isinstance(value, torch.Tensor)
        return value
