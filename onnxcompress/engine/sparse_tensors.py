"""Sparse tensors of a file (COO): as arrays and back, and the bytes they take."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import FLOAT_TYPES

_INDEX = np.dtype(np.int64)
"""What ONNX has indices in."""


def dense(sparse: onnx.SparseTensorProto) -> Array:
    """Return a sparse tensor (linear or per-axis indices) as an array.

    Raises:
        ValueError: indices and values do not fit each other or the shape.
    """
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    if any(d < 0 for d in shape) or (indices.size and indices.min() < 0):
        raise ValueError("a sparse tensor has a negative dimension or index")
    result = np.zeros(shape, values.dtype)
    if indices.ndim == 2:
        if indices.shape != (values.size, len(shape)) or (indices >= np.array(shape)).any():
            raise ValueError("indices of a sparse tensor lie outside its shape")
        result[tuple(indices.T)] = values
    else:
        if indices.shape != values.shape or (indices >= result.size).any():
            raise ValueError("indices of a sparse tensor lie outside its shape")
        result.reshape(-1)[indices] = values
    return result


def sparse(tensor: ir.TensorProtocol, name: str) -> onnx.SparseTensorProto | None:
    """Return a tensor of real numbers in sparse form (linear indices); None: that takes no fewer bytes."""
    if tensor.dtype not in FLOAT_TYPES:
        return None
    array = np.asarray(tensor.numpy())
    if sparse_bytes(array) >= array.nbytes:
        return None
    found = np.flatnonzero(_held(array)).astype(_INDEX)
    kept = np.ascontiguousarray(array).reshape(-1)[found]
    result = onnx.SparseTensorProto(dims=array.shape)
    result.values.CopyFrom(
        onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=kept.shape, raw_data=kept.tobytes())
    )
    result.indices.CopyFrom(numpy_helper.from_array(found))
    return result


def sparse_bytes(array: Array) -> int:
    """Return the bytes of an array in sparse form: of its numbers and of their indices."""
    return int(np.count_nonzero(_held(array))) * (array.itemsize + _INDEX.itemsize)


def proto_bytes(tensor: onnx.SparseTensorProto) -> int:
    """Return the bytes of the numbers of a sparse tensor and of their indices."""
    return sum(numpy_helper.to_array(t).nbytes for t in (tensor.values, tensor.indices))


def _held(array: Array) -> Array:
    """Return the numbers of an array as bits, of which only those of +0 are all zero: -0 is held."""
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.itemsize}")
