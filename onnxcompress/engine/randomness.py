"""Operators that draw random numbers when the model runs; all of the default domain."""

from __future__ import annotations

import onnx_ir as ir

ALWAYS = frozenset(
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)
"""Operators that draw at each run."""

EVER = ALWAYS | {"Dropout"}
"""Operators that may draw."""


def may_draw(node: ir.Node) -> bool:
    """Return whether a node may draw when the model runs: a Dropout only where it can be told to train."""
    if node.domain or node.op_type not in EVER:
        return False
    return node.op_type in ALWAYS or (len(node.inputs) > 2 and node.inputs[2] is not None)
