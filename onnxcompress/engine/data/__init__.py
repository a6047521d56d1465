"""Data: what is given with ``--data`` becomes examples that fit the model, read on demand."""

from onnxcompress.engine.data.adapters.memory import Items
from onnxcompress.engine.data.examples import Examples
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.data.opening import DataRead, open_data, read_data
from onnxcompress.engine.data.options import DataOptions
from onnxcompress.engine.data.task import make_task

__all__ = ["DataOptions", "DataRead", "Examples", "Feeding", "Items", "make_task", "open_data", "read_data"]
