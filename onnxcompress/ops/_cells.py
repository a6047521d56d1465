"""Recurrent cells, step by step: every attribute of LSTM, GRU and RNN, at the speed of a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxcompress.ops._base import Node, NotCoveredError
from onnxcompress.ops._torch import F, Tensor, torch

Activation = Callable[[Tensor], Tensor]
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
# name -> default alpha, default beta, where onnxruntime puts 0 if the specification names none;
# None: the function takes no such number
_NUMBERS: dict[str, tuple[float | None, float | None]] = {
    "affine": (0.0, 0.0),
    "leakyrelu": (0.01, None),
    "thresholdedrelu": (0.0, None),
    "scaledtanh": (0.0, 0.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, None),
}


def _activation(name: str, alpha: float, beta: float) -> Activation:
    table: dict[str, Activation] = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softsign": F.softsign,
        "softplus": F.softplus,
        "affine": lambda x: alpha * x + beta,
        "leakyrelu": lambda x: F.leaky_relu(x, alpha),
        "thresholdedrelu": lambda x: torch.where(x > alpha, x, torch.zeros_like(x)),
        "scaledtanh": lambda x: alpha * torch.tanh(beta * x),
        "hardsigmoid": lambda x: torch.clamp(alpha * x + beta, 0, 1),
        "elu": lambda x: F.elu(x, alpha),
    }
    if name not in table:
        raise NotCoveredError(f"activation {name!r}")
    return table[name]


def names(node: Node) -> list[str]:
    """Return the activations of all directions, lower case."""
    defaults = _DEFAULTS[node.op_type]
    directions = 2 if node.get("direction", "forward") == "bidirectional" else 1
    return [name.lower() for name in node.get("activations") or defaults * directions]


def activations(node: Node) -> list[list[Activation]]:
    """Return the activation functions of each direction."""
    alphas, betas = list(node.get("activation_alpha") or []), list(node.get("activation_beta") or [])
    found = []
    for name in names(node):
        alpha, beta = _NUMBERS.get(name, (None, None))
        if alpha is not None and alphas:
            alpha = alphas.pop(0)
        if beta is not None and betas:
            beta = betas.pop(0)
        found.append(_activation(name, 0.0 if alpha is None else alpha, 0.0 if beta is None else beta))
    count = len(_DEFAULTS[node.op_type])
    return [found[i : i + count] for i in range(0, len(found), count)]


@dataclass(frozen=True)
class Direction:
    """Parameters of one direction: W (gates·hidden, input), R (gates·hidden, hidden), halves of B, P."""

    w: Tensor
    r: Tensor
    wb: Tensor | None
    rb: Tensor | None
    peepholes: Tensor | None
    functions: list[Activation]


State = tuple[Tensor, Tensor]


def lstm_step(node: Node, d: Direction, gates: Tensor, state: State) -> State:
    """Return hidden and cell after one step; ``gates`` is W·x + Wb, in the order i o f c."""
    f, g, h = d.functions
    hidden, cell = state
    pre = gates + hidden @ d.r.T + (d.rb if d.rb is not None else 0)
    i, o, forget, c = pre.chunk(4, -1)
    pi = po = pf = None
    if d.peepholes is not None:
        pi, po, pf = d.peepholes.chunk(3)
        i, forget = i + pi * cell, forget + pf * cell
    i = f(_clipped(node, i))
    forget = 1 - i if node.get("input_forget", 0) else f(_clipped(node, forget))
    cell = forget * cell + i * g(_clipped(node, c))
    if po is not None:
        o = o + po * cell
    return f(_clipped(node, o)) * h(cell), cell


def gru_step(node: Node, d: Direction, gates: Tensor, state: State) -> State:
    """Return the hidden state after one step; ``gates`` is W·x + Wb, in the order z r h."""
    f, g = d.functions
    hidden = state[0]
    size = hidden.shape[-1]
    rb = d.rb if d.rb is not None else gates.new_zeros(3 * size)
    zr = f(_clipped(node, gates[:, : 2 * size] + hidden @ d.r[: 2 * size].T + rb[: 2 * size]))
    z, r = zr.chunk(2, -1)
    if node.get("linear_before_reset", 0):
        inner = r * (hidden @ d.r[2 * size :].T + rb[2 * size :])
    else:
        inner = (r * hidden) @ d.r[2 * size :].T + rb[2 * size :]
    candidate = g(_clipped(node, gates[:, 2 * size :] + inner))
    hidden = (1 - z) * candidate + z * hidden
    return hidden, hidden


def rnn_step(node: Node, d: Direction, gates: Tensor, state: State) -> State:
    """Return the hidden state after one step; ``gates`` is W·x + Wb."""
    pre = gates + state[0] @ d.r.T + (d.rb if d.rb is not None else 0)
    hidden = d.functions[0](_clipped(node, pre))
    return hidden, hidden


def _clipped(node: Node, x: Tensor) -> Tensor:
    limit = node.get("clip")
    return x if not limit else torch.clamp(x, -limit, limit)


STEPS: dict[str, Callable[[Node, Direction, Tensor, State], State]] = {
    "LSTM": lstm_step,
    "GRU": gru_step,
    "RNN": rnn_step,
}


def unrolled(
    node: Node, d: Direction, x: Tensor, lengths: Tensor | None, state: State
) -> tuple[Tensor, State]:
    """Run one direction over x (T N I); past a sequence's end outputs are zero and the state stands still."""
    step = STEPS[node.op_type]
    gates = F.linear(x, d.w, d.wb)
    outputs = []
    for t in range(x.shape[0]):
        hidden, cell = step(node, d, gates[t], state)
        if lengths is not None:
            alive = (t < lengths).unsqueeze(1)
            outputs.append(torch.where(alive, hidden, torch.zeros_like(hidden)))
            state = torch.where(alive, hidden, state[0]), torch.where(alive, cell, state[1])
        else:
            outputs.append(hidden)
            state = hidden, cell
    y = torch.stack(outputs) if outputs else x.new_zeros(0, *state[0].shape)
    return y, state
