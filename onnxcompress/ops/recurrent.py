"""LSTM, GRU and RNN: torch's fused kernels where they compute the same, else a loop over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxcompress.ops._base import Example, Node, Shape, operator
from onnxcompress.ops._cells import Direction, activations, names, unrolled
from onnxcompress.ops._examples import example, normal
from onnxcompress.ops._torch import Tensor, late, torch

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# torch's gate order in terms of ONNX's: LSTM i o f c -> i f g o; GRU z r h -> r z n
_TORCH_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_FUSED = {
    ("LSTM", ("sigmoid", "tanh", "tanh")): "lstm",
    ("GRU", ("sigmoid", "tanh")): "gru",
    ("RNN", ("tanh",)): "rnn_tanh",
    ("RNN", ("relu",)): "rnn_relu",
}


def _macs(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    """Return steps × batch × directions × gates·hidden × (input + hidden)."""
    x, w, r = inputs[:3]
    assert x is not None
    assert w is not None
    assert r is not None
    return x[0] * x[1] * w[0] * w[1] * (w[2] + r[2])


def _examples(kind: str) -> Any:
    gates = _GATES[kind]

    def parameters(directions: int) -> tuple[Any, ...]:
        w = normal(directions, gates * 4, 3, seed=1) * np.float32(0.5)
        r = normal(directions, gates * 4, 4, seed=2) * np.float32(0.5)
        return w, r, normal(directions, 2 * gates * 4, seed=3) * np.float32(0.5)

    def cases(version: int) -> list[Example]:
        x, count = normal(5, 2, 3), 3 if kind == "LSTM" else 2
        lengths = np.array([5, 3], dtype=np.int32)
        h, c = normal(1, 2, 4, seed=4), normal(1, 2, 4, seed=5)
        states = (h, c) if kind == "LSTM" else (h,)
        both = tuple(np.concatenate([s, -s]) for s in states)
        common: dict[str, Any] = {"hidden_size": 4, "outputs": count}
        found = [
            example(x, *parameters(1)[:2], **common),
            example(x, *parameters(1), None, *states, **common),
            example(x, *parameters(1), None, *states, direction="reverse", **common),
            example(x, *parameters(2), None, *both, direction="bidirectional", **common),
            example(x, *parameters(2), lengths, *both, direction="bidirectional", **common),
            example(x, *parameters(1), lengths, direction="reverse", **common),
            example(x, *parameters(1), np.array([0, 4], np.int32), *states, **common),
            example(x, *parameters(1), clip=0.3, **common),
        ]
        if kind == "GRU" and version >= 3:
            after: dict[str, Any] = {"linear_before_reset": 1, **common}
            found.append(example(x, *parameters(1), None, *states, **after))
            found.append(example(x, *parameters(1), None, *states, clip=0.3, **after))
        if kind == "LSTM":
            peepholes = normal(1, 12, seed=6) * np.float32(0.5)
            found.append(example(x, *parameters(1), None, *states, peepholes, **common))
            found.append(example(x, *parameters(1), None, *states, input_forget=1, **common))
        squash = {"LSTM": ["HardSigmoid", "ScaledTanh", "Softsign"], "GRU": ["HardSigmoid", "Affine"]}
        numbers: dict[str, Any] = {"activation_alpha": [0.3, 0.7], "activation_beta": [0.4, 0.2]}
        found.append(
            example(x, *parameters(1), activations=squash.get(kind, ["Affine"]), **numbers, **common)
        )
        return found

    return cases


def _recurrent(node: Node, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
    bias, lengths, h0, c0, peepholes = [*rest, None, None, None, None, None][:5]
    layout = node.get("layout", 0)
    if layout:
        x = x.transpose(0, 1)
        h0 = h0 if h0 is None else h0.transpose(0, 1)
        c0 = c0 if c0 is None else c0.transpose(0, 1)
    shape = (w.shape[0], x.shape[1], r.shape[2])
    h0 = x.new_zeros(shape) if h0 is None else h0
    c0 = x.new_zeros(shape) if c0 is None else c0
    if lengths is not None and bool((lengths == x.shape[0]).all()):
        lengths = None
    fused = _fused_name(node, lengths, peepholes)
    if fused is not None and x.numel():
        y, h, c = _fused(node, fused, x, (w, r, bias), (h0, c0))
    else:
        y, h, c = _stepwise(node, x, (w, r, bias, peepholes), lengths, (h0, c0))
    if layout:
        y, h, c = y.permute(2, 0, 1, 3), h.transpose(0, 1), c.transpose(0, 1)
    return (y, h, c) if node.op_type == "LSTM" else (y, h)


def _fused_name(node: Node, lengths: Tensor | None, peepholes: Tensor | None) -> str | None:
    """Return the kernel of torch that computes this node exactly, None where there is none."""
    plain = lengths is None and peepholes is None and not node.get("clip") and not node.get("input_forget", 0)
    if not plain or (node.op_type == "GRU" and not node.get("linear_before_reset", 0)):
        return None
    wanted = names(node)
    count = {"LSTM": 3, "GRU": 2, "RNN": 1}[node.op_type]
    if any(wanted[i : i + count] != wanted[:count] for i in range(0, len(wanted), count)):
        return None
    return _FUSED.get((node.op_type, tuple(wanted[:count])))


def _ordered(kind: str, parameter: Tensor) -> Tensor:
    """Return a parameter (gates·hidden, …) with its gates in torch's order."""
    if kind == "RNN":
        return parameter
    parts = parameter.chunk(_GATES[kind])
    return torch.cat([parts[i] for i in _TORCH_ORDER[kind]])


def _fused(
    node: Node,
    name: str,
    x: Tensor,
    parameters: tuple[Tensor, Tensor, Tensor | None],
    state: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    w, r, bias = parameters
    kind, directions = node.op_type, w.shape[0]
    reverse = node.get("direction", "forward") == "reverse"
    flat: list[Tensor] = []
    for d in range(directions):
        flat += [_ordered(kind, w[d]), _ordered(kind, r[d])]
        if bias is not None:
            flat += [_ordered(kind, half) for half in bias[d].chunk(2)]
    hx: Any = tuple(s.contiguous() for s in state) if kind == "LSTM" else state[0].contiguous()
    # cuDNN keeps what the backward pass needs only when told that it trains
    keep = torch.is_grad_enabled()
    arguments = (hx, flat, bias is not None, 1, 0.0, keep, directions == 2, False)
    result = late(name)(x.flip(0) if reverse else x, *arguments)
    y = result[0].reshape(x.shape[0], x.shape[1], directions, -1).transpose(1, 2)
    if reverse:
        y = y.flip(0)
    return y, result[1], result[2] if kind == "LSTM" else result[1]


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return x (T N …) with time reversed inside each sequence."""
    if lengths is None:
        return x.flip(0)
    t = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    index = torch.where(t < lengths, lengths - 1 - t, t)
    return x[index, torch.arange(x.shape[1], device=x.device)]


def _stepwise(
    node: Node,
    x: Tensor,
    parameters: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    lengths: Tensor | None,
    state: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    w, r, bias, peepholes = parameters
    lengths = None if lengths is None else lengths.to(torch.int64)
    functions = activations(node)
    ys, hs, cs = [], [], []
    for d in range(w.shape[0]):
        wb, rb = (None, None) if bias is None else bias[d].chunk(2)
        one = Direction(w[d], r[d], wb, rb, None if peepholes is None else peepholes[d], functions[d])
        backward = d == 1 or node.get("direction", "forward") == "reverse"
        steps = _reversed(x, lengths) if backward else x
        y, (h, c) = unrolled(node, one, steps, lengths, (state[0][d], state[1][d]))
        if lengths is not None:  # of an empty sequence onnxruntime tells no state, not even the first
            some = (lengths > 0).unsqueeze(1)
            h, c = (torch.where(some, s, torch.zeros_like(s)) for s in (h, c))
        ys.append(_reversed(y, lengths) if backward else y)
        hs.append(h)
        cs.append(c)
    return torch.stack(ys, 1), torch.stack(hs), torch.stack(cs)


for _kind in _GATES:
    operator(_kind, examples=_examples(_kind), macs=_macs)(_recurrent)
