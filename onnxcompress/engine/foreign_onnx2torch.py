"""The second way to execute a node: the converter of onnx2torch, where it was shown to be right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from onnxcompress.ops._base import Node

TRUSTED: frozenset[tuple[str, int]] = frozenset()
"""(operator, version of its definition) for which the contract tests have shown the converter right."""


def trusted(node: Node) -> tuple[str, int] | None:
    """Return the entry that covers a node, None where there is none."""
    key = (node.op_type, node.version)
    return key if not node.domain and key in TRUSTED else None


def convert(node: ir.Node, opsets: Mapping[str, int]) -> Callable[..., Any]:
    """Return a callable that computes the node on torch tensors, in the order of its inputs present."""
    raise NotImplementedError
