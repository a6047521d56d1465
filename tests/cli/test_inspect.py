"""inspect from the command line: groups in every format, and quick without them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from onnxcompress.core.run import Run

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


@pytest.fixture(autouse=True)
def network(folder):
    shutil.copyfile(FIXTURES / "digits_cnn.onnx", folder / "digits_cnn.onnx")


def ok(done):
    assert done.code == 0, done
    assert done.err == ""
    return done


def test_groups_are_told_on_the_terminal(call):
    done = ok(call("inspect digits_cnn.onnx"))
    text = " ".join(done.out.split())
    assert "Channel groups" in done.out
    assert "112 channels in 3 groups can be cut" in text
    assert "Kept because it" in done.out
    assert "reaches the output 'scores'" in text
    assert "Read by" not in done.out
    assert "Read by" in ok(call("inspect digits_cnn.onnx -v")).out


def test_every_format_holds_them(call):
    ok(call("inspect digits_cnn.onnx -q --report r.json --report r.md --report r.html"))
    data = json.loads(Path("r.json").read_text())["channels"]
    assert {g["name"]: g["size"] for g in data["groups"] if not g["frozen"]} == {
        "conv1.weight": 16,
        "conv2.weight": 32,
        "fc1.weight": 64,
    }
    assert {"tensor": "fc1.weight", "axis": 1, "positions": 512, "reads": True} in data["groups"][1][
        "members"
    ]
    assert "`conv2.weight`" in Path("r.md").read_text()
    page = Path("r.html").read_text()
    assert '<svg class="network"' in page
    assert "#2 · 32" in page


def test_a_stored_inspection_renders_again(call):
    ok(call("inspect digits_cnn.onnx -q --report r.json"))
    done = ok(call("report r.json --html again.html"))
    assert "Channel groups" in Path("again.html").read_text(), done


def test_groups_can_be_left_out(call):
    done = ok(call("inspect digits_cnn.onnx --no-groups --report r.json"))
    assert "Channel groups" not in done.out
    assert Run.from_json(Path("r.json").read_text()).channels is None


def test_what_a_cut_did_is_in_every_format(call):
    ok(
        call(
            "digits_cnn.onnx --method magnitude --keep 0.5 --no-bench -q "
            "--report r.json --report r.md --report r.html"
        )
    )
    run = Run.from_json(Path("r.json").read_text())
    assert run.channels is not None
    assert {g.name for cut in run.cuts for g in cut.groups} <= {g.name for g in run.channels.groups}
    for name in ("r.md", "r.html"):
        text = Path(name).read_text()
        assert "Channels cut" in text
        assert "equal to rounding" in text
    assert "of 32" in Path("r.html").read_text()
