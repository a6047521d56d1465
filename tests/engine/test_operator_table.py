"""The operator table that the documentation shows is the one the code writes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxcompress.engine.graph import operator_table

TABLE = Path(__file__).resolve().parents[2] / "docs" / "operators.md"


def test_the_table_is_current():
    written = TABLE.read_text(encoding="utf-8")
    if f"in onnx {onnx.__version__};" not in written:
        pytest.skip(f"the table was written with another onnx than {onnx.__version__}")
    current = "\n".join(operator_table.lines())
    assert written == current, f"run: python -m onnxcompress.engine.graph.operator_table docs/{TABLE.name}"


def test_ways_of_some_operators():
    assert operator_table.way("", "Conv", 11) == ("own", "flow")
    assert operator_table.way("", "Shape", 13) == ("own", "none, by nature")
    assert operator_table.way("", "StringSplit", 20) == ("onnxruntime", "stop")
    assert operator_table.way("", "MatMul", 13) == ("own ¹", "flow")
