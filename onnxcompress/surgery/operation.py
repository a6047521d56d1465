"""One operation: the cut, the clone it is carried out on, and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxcompress.surgery.extent import Extent
from onnxcompress.surgery.tensors import Tensors


@dataclass(frozen=True, eq=False)
class Operation:
    """What every step of a cut works with.

    Attributes:
        extent: what is cut, asked about by the analysed graph's nodes and values.
        tensors: constants of the clone.
        twins: node of the analysed graph -> node of the clone, in graph order.
        opset: version of the default operator set.
    """

    extent: Extent
    tensors: Tensors
    twins: Mapping[ir.Node, ir.Node]
    opset: int
