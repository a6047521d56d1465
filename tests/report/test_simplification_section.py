"""What a report tells of a graph that was simplified without loss."""

import pytest

from onnxcompress import report
from onnxcompress.core.run import SCHEMA, Environment, Run
from onnxcompress.core.simplification import Change, SameProof, SimplificationFacts

CHANGES = (
    Change("unused", "nodes that nothing reads", 3, 1200, True, ("Relu <r>", "w")),
    Change("normalisation", "BatchNormalizations", 1, -20, False, ("bn",)),
)
PROOF = SameProof(3, 2, ("noise",), True, 1e-15, 2e-14, 3e-7, 1e-4, ("GRU",))


def run(*facts):
    environment = Environment("3", "", "", 1, {})
    return Run(
        SCHEMA,
        "1",
        "compress",
        None,
        {},
        0,
        "2026-01-01T00:00:00+00:00",
        1.0,
        environment,
        (),
        simplifications=facts,
    )


@pytest.mark.parametrize("fmt", ["terminal", "markdown", "html"])
def test_every_format_tells_it(fmt):
    facts = SimplificationFacts("lossless", CHANGES, 10, 6, 5000, 3820, PROOF)
    text = " ".join(report.render(run(facts), fmt).split())
    for words in ("equal bit by bit", "1,200", "4 nodes of 10", "1e-15", "noise", "GRU", "2 sizes"):
        assert words in text
    assert "<r>" not in text or fmt != "html"


@pytest.mark.parametrize("fmt", ["terminal", "markdown", "html"])
def test_missing_parts(fmt):
    half = SimplificationFacts("lossless", CHANGES[:1], 2, 2, 10, 10, SameProof(2, 1, bitwise=False))
    nothing = SimplificationFacts("lossless", (), 2, 2, 10, 10, SameProof(0, 0))
    text = " ".join(report.render(run(half, nothing), fmt).split())
    assert "half precision" in text
    assert "Nothing had to be proven" in text


def test_it_survives_json():
    told = run(SimplificationFacts("lossless", CHANGES, 10, 6, 5000, 3820, PROOF))
    assert Run.from_json(told.to_json()) == told
