"""Which weights are trained, and which cannot receive a gradient because of which node."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from onnxcompress.core.model import FLOAT_TYPES
from onnxcompress.core.refusal import Refusal
from onnxcompress.engine import randomness
from onnxcompress.engine.graph import roles
from onnxcompress.engine.graph.program import ABSENT, Block, Program, Step
from onnxcompress.engine.graph.values import element_type
from onnxcompress.engine.graph.ways import reads


def mark(program: Program, trained: frozenset[int]) -> None:
    """Set on every step whether it depends on what is fed, and whether it is the same in every run.

    Args:
        program: the compiled model.
        trained: slots of the weights that training changes, statistics included.
    """
    fed = {program.slots[name] for name in program.inputs}
    defaults = {program.slots[name] for name in program.optional}
    _mark(program.main, fed, fed | defaults | trained)


def _mark(block: Block, fed: set[int], varying: set[int]) -> None:
    for step in block.steps:
        slots = reads(step)
        outputs = {slot for slot in step.outputs if slot != ABSENT}
        for nested in step.blocks.values():
            # What a body is given changes from one iteration to the next.
            fed.update(nested.inputs)
            varying.update(nested.inputs)
            _mark(nested, fed, varying)
        step.fed = tuple(slot in fed for slot in step.inputs)
        inner = (s for nested in step.blocks.values() for s in nested.walk())
        random = any(roles.among(randomness.EVER, s.node) for s in (step, *inner))
        step.fixed = not random and not slots & varying
        if slots & fed:
            fed |= outputs
        if not step.fixed:
            varying |= outputs


def not_trained(program: Program) -> set[str]:
    """Return the weights that no gradient should change: statistics, scalars, and what only sets shapes."""
    slots = {slot: name for name, slot in program.weights.items()}
    statistics: set[int] = set()
    data: set[int] = {slot for slot in program.weights.values() if program.values[slot].is_graph_output()}
    # Backwards, so that what a movement operator is used for is known before its input is judged.
    for step in reversed(program.steps):
        kinds = roles.slots(roles.STATISTICS, step.node)
        choices = roles.slots(roles.CHOICES, step.node)
        moves = roles.among(roles.MOVEMENT, step.node)
        results = set(step.outputs)
        for index, slot in enumerate(step.inputs):
            if index in kinds or (moves and results & statistics):
                statistics.add(slot)
            elif index not in choices and (not moves or results & data or _leaves(program, step)):
                data.add(slot)
    for step in program.steps:
        for block in step.blocks.values():
            data.update(block.outputs)
    found = set()
    for slot, name in slots.items():
        scalar = len(program.values[slot].shape or ()) == 0 and _rank(program.values[slot]) == 0
        if scalar or slot in statistics or (slot not in data and _is_read(program, slot)):
            found.add(name)
    return found


def _rank(value: ir.Value) -> int:
    constant = value.const_value
    if constant is None and value.producer() is not None:
        attribute = value.producer().attributes.get("value")  # type: ignore[union-attr]
        constant = attribute.as_tensor() if attribute is not None else None
    return len(constant.shape) if constant is not None else 1


def _is_read(program: Program, slot: int) -> bool:
    return any(slot in step.inputs for step in program.steps)


def _leaves(program: Program, step: Step) -> bool:
    """Return whether an output leaves its graph, so that its use is not seen in the steps."""
    return any(s != ABSENT and program.values[s].is_graph_output() for s in step.outputs)


def without_gradient(
    program: Program, trainable: Mapping[str, int], passes: Callable[[Step], str | None]
) -> tuple[Refusal, ...]:
    """Return the trainable weights that no output's gradient reaches, each with what is in the way.

    Args:
        program: the compiled model.
        trainable: weight name -> slot.
        passes: None where gradients pass a step, else why they do not.
    """
    reached: set[int] = {slot for slot in program.main.outputs if _is_float(program.values[slot])}
    _backward(program, program.main, reached, passes)
    refusals = []
    for name, slot in trainable.items():
        if slot not in reached:
            refusals.append(Refusal(name, _obstacle(program, slot, passes)))
    return tuple(refusals)


def _is_float(value: ir.Value) -> bool:
    declared = element_type(value)
    return declared is None or declared in FLOAT_TYPES


def _backward(
    program: Program, block: Block, reached: set[int], passes: Callable[[Step], str | None]
) -> None:
    for step in reversed(block.steps):
        if not any(slot in reached for slot in step.outputs if slot != ABSENT) or passes(step):
            continue
        for nested in step.blocks.values():
            # Carried values feed the next iteration: two rounds reach what a gradient can reach.
            reached.update(s for s in nested.outputs if _is_float(program.values[s]))
            for _ in range(2):
                _backward(program, nested, reached, passes)
        choices = roles.slots(roles.CHOICES, step.node)
        for index, slot in enumerate(step.inputs):
            if slot != ABSENT and index not in choices and _is_float(program.values[slot]):
                reached.add(slot)


def _obstacle(program: Program, slot: int, passes: Callable[[Step], str | None]) -> str:
    """Follow a weight forward and say where its gradient is stopped."""
    front, seen, obstacles = [slot], {slot}, []
    while front:
        current = front.pop()
        for step in program.steps:
            if current not in step.inputs:
                continue
            why = passes(step)
            if why:
                obstacles.append(f"node {step.label!r} ({step.node.op_type}) {why}")
                continue
            fresh = [s for s in step.outputs if s != ABSENT and s not in seen]
            seen.update(fresh)
            front.extend(fresh)
    if obstacles:
        return "receives no gradient: " + "; ".join(dict.fromkeys(obstacles[:3]))
    return "receives no gradient: no floating-point output depends on it"
