"""The second way to execute a node: the converter of onnx2torch, where it was shown to be right.

onnx2torch computes some operators wrongly without saying so (CumSum, NonZero, outputs that are dropped), so
it is asked only for what ``TRUSTED`` lists; a contract test compares each entry with onnxruntime.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
import warnings
from collections.abc import Mapping
from types import ModuleType

import onnx
import onnx_ir as ir
import torch
from onnx import helper

from onnxcompress.ops._base import Node, NotCoveredError

_VERSIONS: dict[str, tuple[int, ...]] = {
    "Celu": (12,),
    "DepthToSpace": (11, 13),
    "Einsum": (12,),
    "Expand": (8, 13),
    "GatherND": (11, 12, 13),
    "Gemm": (9, 11, 13),
    "MatMul": (1, 9, 13),
    "Mod": (10, 13),
    "PRelu": (7, 9, 16),
    "Range": (11,),
    "ScatterND": (11, 13, 16),
    "Tile": (6, 13),
    "Where": (9, 16),
}

TRUSTED = frozenset((kind, version) for kind, versions in _VERSIONS.items() for version in versions)
"""(operator, version of its definition) for which the contract test has shown the converter right.

Our own operators come first and cover all that onnx2torch converts; this is the reserve for a case that one
of them refuses. Few attributes to misread is what these have in common.
"""


def trusted(node: Node) -> bool:
    """Return whether onnx2torch may execute a node."""
    return not node.domain and (node.op_type, node.version) in TRUSTED


@functools.cache
def library() -> ModuleType:
    """Import onnx2torch, which imports torchvision; raises NotCoveredError where it cannot be imported."""
    return beside_torch("onnx2torch")


def beside_torch(package: str) -> ModuleType:
    """Import torchvision, or a package that imports it; raises NotCoveredError where that cannot be.

    A torchvision built for another torch than the one installed (the usual pair of a CPU torch with the
    package index's torchvision) fails on import, because its compiled operators do not load. Nothing here
    needs them: they are declared, without an implementation, and the import is tried again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(_PATIENCE):
            try:
                return importlib.import_module(package)
            except (ImportError, RuntimeError, OSError) as error:
                _forget("torchvision", package)
                missing = re.search(r"operator (torchvision::\w+) does not exist", str(error))
                if missing is None:
                    raise NotCoveredError(f"{package} cannot be imported: {error}") from error
                declare(missing[1])
    raise NotCoveredError(f"{package} cannot be imported: torchvision does not fit torch")


_PATIENCE = 10
_DECLARED: list[torch.library.Library] = []


def declare(operator: str) -> None:
    """Declare a compiled operator of torchvision that its import asks for, without an implementation."""
    namespace, name = operator.split("::")
    library = torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(_SCHEMAS.get(name, f"{name}(Tensor input) -> Tensor"))  # type: ignore[no-untyped-call]
    _DECLARED.append(library)


_SUPPRESSION = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_SCHEMAS = {"nms": "nms" + _SUPPRESSION, "qnms": "qnms" + _SUPPRESSION}


def _forget(*packages: str) -> None:
    """Remove half-imported modules, so that a second import starts afresh."""
    for name in [m for m in sys.modules if m.split(".")[0] in packages]:
        del sys.modules[name]


def convert(
    node: ir.Node,
    opsets: Mapping[str, int],
    constants: Mapping[int, onnx.TensorProto],
    types: Mapping[int, int],
) -> torch.nn.Module:
    """Return a module that computes a node on torch tensors, in the order of its inputs that vary.

    Args:
        node: the node.
        opsets: operator sets of its model.
        constants: input slot -> value, for the inputs that are the same in every call.
        types: input slot -> ONNX element type, for the others (shape inference crashes without).

    Raises:
        NotCoveredError: onnx2torch refuses the node.
    """
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    names = [f"i{index}" if value is not None else "" for index, value in enumerate(node.inputs)]
    proto.input.extend(names)
    proto.output.extend(f"o{index}" if value.name else "" for index, value in enumerate(node.outputs))
    for name, tensor in ((names[index], tensor) for index, tensor in constants.items()):
        tensor.name = name
    graph = helper.make_graph(
        [proto],
        "node",
        [helper.make_tensor_value_info(names[i], element, None) for i, element in sorted(types.items())],
        [onnx.ValueInfoProto(name=name) for name in proto.output if name],
        list(constants.values()),
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = helper.make_model(graph, opset_imports=imports)
    try:
        module: torch.nn.Module = library().convert(model)
    except Exception as error:
        raise NotCoveredError(f"onnx2torch refuses the node: {error}") from error
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()
