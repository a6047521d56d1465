"""The order of stages: one file for each thing that can be asked of a model; nothing else knows it."""

from onnxcompress.pipeline._original import Source
from onnxcompress.pipeline._request import Request, default_output
from onnxcompress.pipeline.comparison import compare
from onnxcompress.pipeline.compression import compress
from onnxcompress.pipeline.inspection import inspect

__all__ = ["Request", "Source", "compare", "compress", "default_output", "inspect"]
