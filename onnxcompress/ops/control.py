"""Control flow: If, Loop, Scan, SequenceMap. A nested graph reaches its operator as a callable.

The callable takes the nested graph's inputs and returns its outputs as a list; captured values are bound
already, so that gradients flow through the bodies into weights on both sides. ``empty(k)`` gives an empty
tensor of the k-th output's declared type, for a loop that never runs.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnxcompress.ops._base import Example, Node, NotCoveredError, TensorLike, operator
from onnxcompress.ops._torch import torch


def no_examples(version: int) -> Iterable[Example]:
    """Yield nothing: nested graphs and sequences are tested through whole models."""
    return ()


def _true(condition: TensorLike) -> bool:
    return bool(condition.reshape(-1)[0]) if hasattr(condition, "reshape") else bool(condition)


@operator("If", examples=no_examples)
def If(node: Node, condition: TensorLike) -> tuple[TensorLike, ...]:
    """Run the branch that the scalar ``condition`` chooses."""
    return tuple(node.attributes["then_branch" if _true(condition) else "else_branch"]())


@operator("Loop", examples=no_examples)
def Loop(
    node: Node, trips: TensorLike = None, condition: TensorLike = None, *carried: TensorLike
) -> tuple[TensorLike, ...]:
    """Run the body at most ``trips`` times, while its condition holds; scan outputs are stacked."""
    body = node.attributes["body"]
    limit = None if trips is None else int(trips.reshape(-1)[0])
    go_on = condition is None or _true(condition)
    count, state = 0, list(carried)
    collected: list[list[TensorLike]] = []
    while go_on and (limit is None or count < limit):
        test = condition if condition is not None else torch.tensor(True)
        result = body(torch.tensor(count), test, *state)
        condition = result[0]
        go_on, count = _true(condition), count + 1
        state = list(result[1 : 1 + len(carried)])
        collected.append(list(result[1 + len(carried) :]))
    if collected:
        stacked = [torch.stack(items) for items in zip(*collected, strict=True)]
    else:
        stacked = [body.empty(k) for k in range(1 + len(carried), body.outputs)]
    return (*state, *stacked)


def _scan(
    node: Node, states: list[TensorLike], sequences: list[TensorLike], axes: list[int], length: int
) -> tuple[list[TensorLike], list[list[TensorLike]]]:
    """Run a scan body over ``length`` slices; return final states and the slices of each output, in order."""
    body = node.attributes["body"]
    backward = node.get("scan_input_directions", node.get("directions")) or [0] * len(sequences)
    collected: list[list[TensorLike]] = []
    for step in range(length):
        slices = [
            x.select(axis, x.shape[axis] - 1 - step if reverse else step)
            for x, axis, reverse in zip(sequences, axes, backward, strict=True)
        ]
        result = body(*states, *slices)
        states = list(result[: len(states)])
        collected.append(list(result[len(states) :]))
    return states, [list(items) for items in zip(*collected, strict=True)]


@operator("Scan", examples=no_examples, versions=(8, 99))
def Scan(node: Node, *inputs: TensorLike) -> tuple[TensorLike, ...]:
    """Run the body over slices of the scan inputs, carrying states."""
    if node.version < 9:
        return _scan_batched(node, *inputs)
    count = int(node.attributes["num_scan_inputs"])
    states, sequences = list(inputs[: len(inputs) - count]), list(inputs[len(inputs) - count :])
    axes = [int(a) for a in node.get("scan_input_axes") or [0] * count]
    length = int(sequences[0].shape[axes[0]])
    if length == 0:
        raise NotCoveredError("Scan over nothing")
    states, outputs = _scan(node, states, sequences, axes, length)
    out_axes = node.get("scan_output_axes") or [0] * len(outputs)
    reverse = node.get("scan_output_directions") or [0] * len(outputs)
    stacked = [
        torch.stack(items[::-1] if back else items, dim=int(axis))
        for items, axis, back in zip(outputs, out_axes, reverse, strict=True)
    ]
    return (*states, *stacked)


def _scan_batched(node: Node, lengths: TensorLike, *inputs: TensorLike) -> tuple[TensorLike, ...]:
    """Scan of opset 8: axis 0 counts examples, axis 1 slices; each example may have its own length."""
    count = int(node.attributes["num_scan_inputs"])
    split = len(inputs) - count
    longest = int(inputs[split].shape[1])
    finals, stacked = [], []
    for example in range(int(inputs[split].shape[0])):
        length = longest if lengths is None else int(lengths[example])
        states, outputs = _scan(
            node,
            [x[example] for x in inputs[:split]],
            [x[example][:length] for x in inputs[split:]],
            [0] * count,
            length,
        )
        finals.append(states)
        blank = [items + [torch.zeros_like(items[0])] * (longest - length) for items in outputs]
        stacked.append([torch.stack(items) for items in blank])
    return tuple(
        torch.stack(list(parts)) for group in (finals, stacked) for parts in zip(*group, strict=True)
    )


@operator("SequenceMap", examples=no_examples)
def SequenceMap(node: Node, first: TensorLike, *others: TensorLike) -> tuple[TensorLike, ...]:
    """Run the body on each element; inputs that are not sequences are given whole."""
    body = node.attributes["body"]
    results = [
        body(item, *(other[k] if isinstance(other, list) else other for other in others))
        for k, item in enumerate(first)
    ]
    return tuple([result[k] for result in results] for k in range(body.outputs))
