import json
import math

import pytest

from onnxcompress.core.run import SCHEMA, Environment, ModelFacts, Run, TrainingPoint


def example() -> Run:
    environment = Environment("3.11", "Linux", "a processor", 2, {"onnx": "1.23"})
    facts = ModelFacts("a.onnx", "ab", 10, 5, 1, 4, 32.0, 12, (), 17, 8, {"x": (1, 4)})
    return Run(
        SCHEMA,
        "0.1.0",
        "compress",
        ("in.onnx",),
        {},
        0,
        "2026-01-01T00:00:00+00:00",
        1.5,
        environment,
        (facts,),
    )


def test_json_keeps_everything():
    run = example()
    assert Run.from_json(run.to_json()) == run


def test_another_schema_is_refused():
    text = example().to_json().replace(SCHEMA, "onnxcompress.run/999")
    with pytest.raises(ValueError, match="schema"):
        Run.from_json(text)


def test_numbers_json_has_no_word_for_become_null():
    from onnxcompress.core.plain import plain as _plain

    point = TrainingPoint(0, math.nan, math.inf, 1.0, None, None, 0.0)
    plain = json.loads(json.dumps(_plain(vars(point)), allow_nan=False))
    assert plain["mu"] is None
    assert plain["loss"] is None
    assert plain["compressed_loss"] == 1.0


@pytest.mark.parametrize(
    ("field", "wrong"), [("size_bytes", "x"), ("size_bytes", True), ("name", 3), ("bits_per_weight", "1")]
)
def test_values_of_another_kind_are_refused(field, wrong):
    stored = json.loads(example().to_json())
    assert field in stored["models"][0]
    stored["models"][0][field] = wrong
    with pytest.raises(TypeError):
        Run.from_json(json.dumps(stored))
