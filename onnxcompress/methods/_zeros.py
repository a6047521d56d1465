"""What is said of weights that are set to zero one by one."""

from __future__ import annotations


def zeros_warning(opset: int) -> str:
    """Return what such zeros are good for in a model of that version of the default operator set.

    >>> zeros_warning(13)
    'single weights set to zero make the file smaller, with no speed-up in onnxruntime'
    """
    from onnxcompress.encodings.sparse import Sparse  # noqa: PLC0415

    if opset >= Sparse.least_opset:
        return "single weights set to zero make the file smaller, with no speed-up in onnxruntime"
    return "single weights set to zero bring no speed-up in onnxruntime"
