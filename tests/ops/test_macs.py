"""Multiply-accumulates against torch's own count of floating-point operations, and against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from onnxcompress.ops._base import OPS, Example, Node, Op

# torch counts no fused recurrent kernels, and a product of three in the order it chooses
CLOSED_FORM = {"LSTM", "GRU", "RNN", "CausalConvWithState"}


def counted() -> list[tuple[str, str]]:
    return sorted(key for key, op in OPS.items() if op.macs is not None and key[1] not in CLOSED_FORM)


def execution(op: Op, case: Example) -> tuple[int, int]:
    """Return (what the rule says, half of what torch counts)."""
    node = Node(op.type, 26, case.attributes, (True,) * case.outputs, domain=op.domain)
    inputs = [None if x is None else torch.from_numpy(x) for x in case.inputs]
    while inputs and inputs[-1] is None:
        inputs.pop()
    # torch counts the products of attention, not its fused kernels
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        outputs = op.forward(node, *inputs)
    shapes = [
        tuple(y.shape) for y in (outputs if isinstance(outputs, tuple) else (outputs,)) if y is not None
    ]
    assert op.macs is not None
    said = op.macs(node, [None if x is None else tuple(x.shape) for x in inputs], shapes)
    return said, counter.get_total_flops() // 2


@pytest.mark.parametrize(("domain", "type_"), counted())
def test_rule_equals_torchs_count(domain: str, type_: str) -> None:
    op = OPS[domain, type_]
    compared = 0
    for case in op.examples(26):
        ranks = [x.ndim for x in case.inputs if x is not None]
        if type_ == "MatMul" and min(ranks) < 2:
            continue
        if type_ == "Einsum" and len(case.inputs) != 2:
            continue
        said, count = execution(op, case)
        assert said == count
        compared += 1
    assert compared


def test_products_with_vectors() -> None:
    macs = OPS["", "MatMul"].macs
    assert macs is not None
    assert macs(Node("MatMul", 13), [(4,), (4, 3)], [(3,)]) == 12
    assert macs(Node("MatMul", 13), [(3, 4), (4,)], [(3,)]) == 12
    assert macs(Node("MatMul", 13), [(2, 3, 4), (4,)], [(2, 3)]) == 24


def test_einsum_counts_every_index_once() -> None:
    macs = OPS["", "Einsum"].macs
    assert macs is not None
    node = Node("Einsum", 12, {"equation": "...ij,...jk->...ik"})
    assert macs(node, [(7, 2, 3), (7, 3, 5)], [(7, 2, 5)]) == 7 * 2 * 3 * 5
    assert macs(Node("Einsum", 12, {"equation": "ij->ji"}), [(2, 3)], [(3, 2)]) == 0


@pytest.mark.parametrize(("type_", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_steps(type_: str, gates: int) -> None:
    macs = OPS["", type_].macs
    assert macs is not None
    shapes = [(5, 2, 3), (1, gates * 4, 3), (1, gates * 4, 4)]
    assert macs(Node(type_, 14, {"hidden_size": 4}), shapes, []) == 5 * 2 * gates * 4 * (3 + 4)


def test_causal_convolution() -> None:
    macs = OPS["", "CausalConvWithState"].macs
    assert macs is not None
    assert (
        macs(Node("CausalConvWithState", 27), [(2, 3, 5), (3, 1, 4)], [(2, 3, 5), (2, 3, 3)]) == 2 * 3 * 5 * 4
    )


def test_attention_counts_the_heads_that_its_shapes_have() -> None:
    macs = OPS["", "Attention"].macs
    assert macs is not None
    node = Node("Attention", 23, {"q_num_heads": 6, "kv_num_heads": 2})
    whole = macs(node, [(2, 5, 6 * 4), (2, 7, 2 * 4), (2, 7, 2 * 3)], [(2, 5, 6 * 3)])
    assert whole == 2 * 5 * 7 * 6 * (4 + 3)
    # one pair of three of the heads is left; the node still tells the numbers of before
    assert macs(node, [(2, 5, 3 * 4), (2, 7, 4), (2, 7, 3)], [(2, 5, 3 * 3)]) == whole // 2
