"""onnxcompress: make an ONNX model smaller and faster, and prove what it cost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.version import VERSION

if TYPE_CHECKING:
    from onnxcompress.api import Result, compare, compress, pack, unpack

# onnxruntime's wheels send telemetry, and keep an identity of the machine, unless this is set before their
# import; its own function to switch that off comes too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = VERSION
__all__ = ["OnnxCompressError", "Result", "__version__", "compare", "compress", "pack", "unpack"]


def __getattr__(name: str) -> Any:
    # `onnxcompress --help` must start at once: the stages are imported when they are asked for.
    if name in {"compare", "compress", "pack", "unpack", "Result"}:
        from onnxcompress import api  # noqa: PLC0415

        return getattr(api, name)
    raise AttributeError(f"module 'onnxcompress' has no attribute {name!r}")
