"""Compression from the command line, start to end, and the commands around it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxcompress.core.run import Run
from onnxcompress.engine.lc import training as lc_training
from onnxcompress.engine.training.checkpoint import Checkpoint

PLAIN = "digits_mlp.onnx --method lc-quant --bits 2 --no-bench"
TRAINED = f"{PLAIN} --data digits.npz --steps 3 --epochs 1 --lr 0.05"
DEFAULT = "digits_mlp.lc-quant.onnx"


def ok(done):
    assert done.code == 0, done
    assert done.err == ""
    return done


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def top1(path):
    data = np.load("digits.npz")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: data["x_test"]})
    return float((scores.argmax(1) == data["y_test"]).mean())


# the plain command ------------------------------------------------------------------------------------


def test_the_plain_command(call, folder):
    before, source = names(folder), digest("digits_mlp.onnx")
    done = ok(call(PLAIN))
    assert names(folder) == sorted([*before, DEFAULT])
    assert digest("digits_mlp.onnx") == source
    assert done.out.splitlines()[-1] == f"wrote {DEFAULT}"
    assert "without training usually make a model unusable" in " ".join(done.out.split())
    weights = 64 * 256 + 256 * 128 + 128 * 10
    assert weights / 4 < Path(DEFAULT).stat().st_size < weights / 4 + 4000
    onnx.checker.check_model(DEFAULT, full_check=True)
    assert top1(DEFAULT) > 0.8


def test_quiet_says_nothing(call, folder):
    done = ok(call(f"{PLAIN} -q"))
    assert done.out == ""
    assert (folder / DEFAULT).exists()


@pytest.mark.parametrize("words", ["compress {}", "{} out.onnx", "{} -o out.onnx", "{} --output out.onnx"])
def test_ways_to_write_the_same(call, folder, words):
    ok(call(words.format(PLAIN)))
    written = folder / ("out.onnx" if "out.onnx" in words else DEFAULT)
    assert 0.05 < written.stat().st_size / (folder / "digits_mlp.onnx").stat().st_size < 0.1


def test_more_bits_cost_more_bytes_and_less_error(call, folder):
    sizes, errors = [], []
    for bits in (1, 2, 4, 8):
        words = (
            f"digits_mlp.onnx --method lc-quant --no-bench --bits {bits} -o {bits}.onnx --report {bits}.json"
        )
        ok(call(words))
        run = Run.from_json(Path(f"{bits}.json").read_text())
        sizes.append(run.models[1].size_bytes)
        errors.append(run.comparisons[0].outputs[0].relative_l2)
        assert sizes[-1] == Path(f"{bits}.onnx").stat().st_size
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


def test_training_on_data(call, folder):
    ok(call(f"{PLAIN} --bits 1 -o direct.onnx"))
    ok(call(f"{TRAINED} --bits 1 -o trained.onnx --report run.json"))
    run = Run.from_json(Path("run.json").read_text())
    assert run.accuracy is not None
    assert (run.accuracy.split, run.accuracy.examples) == ("test", 359)
    assert run.accuracy.before == pytest.approx(top1("digits_mlp.onnx"))
    assert run.accuracy.after == pytest.approx(top1("trained.onnx"))
    assert top1("trained.onnx") > top1("direct.onnx")
    (method,) = run.methods
    assert method.options["bits"] == 1
    assert method.training is not None
    assert run.recipe["data"]["path"] == "digits.npz"


def test_random_data_is_marked(call, folder):
    done = ok(call(f"{PLAIN} --random-data --limit 64 --steps 1 --epochs 1 --lr 0.01 --report run.json"))
    assert "Trained on random data." in done.out
    run = Run.from_json(Path("run.json").read_text())
    assert run.methods[0].training.random_data
    assert run.accuracy is None


def test_include_and_exclude(call, folder):
    ok(call(f"{PLAIN} --exclude fc1* --report run.json"))
    run = Run.from_json(Path("run.json").read_text())
    assert run.weights
    assert not any(w.name.startswith("fc1") for w in run.weights)
    assert any(r.where.startswith("fc1") and "--exclude" in r.why for r in run.refusals)


# what is written --------------------------------------------------------------------------------------


def test_reports(call, folder):
    ok(call(f"{PLAIN} --report run.json --report run.md --report run.html"))
    run = Run.from_json(Path("run.json").read_text())
    assert run.kind == "compress"
    assert run.models[1].name == DEFAULT
    assert run.models[1].sha256 == digest(DEFAULT)
    assert Run.from_json(run.to_json()) == run
    assert Path("run.md").read_text().lstrip().startswith("#")
    assert Path("run.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_a_dry_run_writes_nothing(call, folder):
    before = {p.name: digest(p) for p in folder.iterdir()}
    done = ok(call(f"{PLAIN} --dry-run"))
    assert {p.name: digest(p) for p in folder.iterdir()} == before
    assert "wrote" not in done.out
    assert "File size" in done.out
    named = ok(call(f"{PLAIN} --dry-run -o small.onnx"))
    assert "small.onnx" in named.out
    assert not Path("small.onnx").exists()


def test_an_output_is_replaced_only_when_allowed(call, folder):
    (folder / DEFAULT).write_text("old")
    assert call(PLAIN).code == 2
    assert (folder / DEFAULT).read_text() == "old"
    ok(call(f"{PLAIN} --overwrite"))
    assert (folder / DEFAULT).stat().st_size > 1000


def test_the_summary_of_a_job_is_appended_to(call, folder, monkeypatch):
    (folder / "summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    ok(call(f"{PLAIN} -q"))
    text = (folder / "summary.md").read_text()
    assert text.startswith("before\n")
    assert DEFAULT in text


def test_a_summary_that_cannot_be_written_is_found_first(call, folder, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "missing" / "summary.md"))
    done = call(PLAIN)
    assert done.code == 2
    assert "summary" in done.err
    assert not (folder / DEFAULT).exists()


# again, and the same ----------------------------------------------------------------------------------


def test_a_compressed_model_is_not_compressed_again(call, folder):
    ok(call(PLAIN))
    before = names(folder)
    done = call(f"{DEFAULT} --method lc-quant --bits 2 --no-bench")
    assert done.code == 4
    assert done.err.startswith("error: nothing would change")
    assert "is stored as codebook of 4 codes already" in done.err
    assert done.err.count("\n") == 1
    assert names(folder) == before


def test_fewer_entries_compress_it_further(call, folder):
    ok(call(PLAIN))
    ok(call(f"{DEFAULT} --method lc-quant --entries 2 --no-bench -o less.onnx --report run.json"))
    run = Run.from_json(Path("run.json").read_text())
    assert {w.entries for w in run.weights} == {2}
    assert (folder / "less.onnx").stat().st_size < 0.7 * (folder / DEFAULT).stat().st_size
    assert np.isfinite(top1("less.onnx"))


def test_the_same_seed_gives_the_same_bytes(call, folder):
    found = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        ok(call(f"{TRAINED} -o {name}.onnx --seed {seed}"))
        found[name] = digest(f"{name}.onnx")
    assert found["a"] == found["b"]
    assert found["a"] != found["c"]


def test_a_saved_recipe_repeats_the_run(call, folder):
    ok(call(f"{TRAINED} --exclude fc3* --seed 3 --loss ce --val 0.2 -o a.onnx --save-recipe r.toml"))
    ok(call("digits_mlp.onnx --recipe r.toml --no-bench -o b.onnx --save-recipe again.toml"))
    assert digest("a.onnx") == digest("b.onnx")
    assert Path("r.toml").read_text() == Path("again.toml").read_text()


def test_a_recipe_keeps_random_data(call, folder):
    short = "--random-data --limit 64 --steps 1 --epochs 1 --lr 0.01"
    ok(call(f"{PLAIN} {short} -o a.onnx --save-recipe r.toml"))
    ok(call("digits_mlp.onnx --recipe r.toml --no-bench -o b.onnx --report run.json"))
    assert digest("a.onnx") == digest("b.onnx")
    assert Run.from_json(Path("run.json").read_text()).recipe["data"] == {"random": True, "limit": 64}


@pytest.mark.parametrize("flag", ["--checkpoint", "--resume"])
def test_a_state_that_nothing_makes_is_told(call, folder, flag):
    Path("state").mkdir()
    done = ok(call(f"{PLAIN} {flag} state"))
    assert f"{flag} had no effect: nothing was trained" in done.out + done.err
    assert list(Path("state").iterdir()) == []


def test_flags_win_over_the_recipe(call, folder):
    Path("r.toml").write_text('[[method]]\nname = "lc-quant"\nbits = 8\nexclude = ["fc1*"]\n')
    ok(call("digits_mlp.onnx --recipe r.toml --bits 1 --no-bench --report run.json"))
    run = Run.from_json(Path("run.json").read_text())
    assert run.methods[0].options["bits"] == 1
    assert run.methods[0].options["exclude"] == ["fc1*"]


def test_an_interrupted_run_resumes_to_the_same_bytes(call, folder, monkeypatch):
    ok(call(f"{TRAINED} -o whole.onnx"))
    before, save, saved = names(folder), Checkpoint.save, []

    def interrupted(self, arrays, values):
        save(self, arrays, values)
        saved.append(values)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", interrupted)
        done = call(f"{TRAINED} -o resumed.onnx --checkpoint state")
    assert done.code == 130
    told = [
        "the training state is kept: --resume state goes on from there",
        "interrupted: no model was written",
    ]
    assert [line for line in done.err.splitlines() if line] == told
    assert names(folder) == sorted([*before, "state"])
    ok(call(f"{TRAINED} -o resumed.onnx --resume state"))
    assert digest("resumed.onnx") == digest("whole.onnx")


@pytest.mark.parametrize(("saves", "limit"), [(2, ""), (6, ""), (6, " --max-time 3600")])
def test_an_interrupted_chain_resumes_to_the_same_bytes(call, folder, monkeypatch, saves, limit):
    """Each method keeps its own state: in the first of two, or in the second, when it is interrupted."""
    short = f"--no-bench --steps 2 --epochs 1 --lr 0.05{limit}"
    words = f"digits_mlp.onnx --data digits.npz {short} --method lc-prune --method lc-quant --bits 2"
    ok(call(f"{words} -o whole.onnx"))
    save, saved = Checkpoint.save, []

    def interrupted(self, arrays, values):
        save(self, arrays, values)
        saved.append(self.path.parent.name)
        if len(saved) == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lc_training, "_SAVE_EVERY_S", -1.0)
        patch.setattr(Checkpoint, "save", interrupted)
        done = call(f"{words} -o resumed.onnx --checkpoint state")
    assert done.code == 130
    assert "--resume state goes on from there" in done.err
    assert saved[-1] == ("1-lc-prune" if saves == 2 else "2-lc-quant")
    ok(call(f"{words} -o resumed.onnx --resume state"))
    assert digest("resumed.onnx") == digest("whole.onnx")


# gates ------------------------------------------------------------------------------------------------


def test_gates_that_hold(call, folder):
    gates = "--max-size-ratio 0.9 --max-bytes 100000 --max-abs-err 1000 --min-cosine 0.1 --min-agreement 0.1"
    ok(call(f"{TRAINED} {gates} --max-drop 0.9 --report run.json"))
    run = Run.from_json(Path("run.json").read_text())
    assert [gate.passed for gate in run.gates] == [True] * 6


@pytest.mark.parametrize(
    "gate",
    [
        "--max-size-ratio 0.0001",
        "--max-bytes 10",
        "--max-abs-err 1e-9",
        "--min-cosine 0.99999",
        "--max-macs 10",
    ],
)
def test_a_gate_that_fails_is_exit_code_3_after_the_reports(call, folder, gate):
    done = call(f"{PLAIN} {gate} --report run.json")
    assert done.code == 3
    assert done.err.startswith("error: a gate failed: " + gate.split()[0][2:].replace("-", "_"))
    assert done.err.count("\n") == 1
    run = Run.from_json(Path("run.json").read_text())
    assert [g.passed for g in run.gates] == [False]


# the other commands -----------------------------------------------------------------------------------


def test_inspect(call, folder):
    done = ok(call("inspect digits_mlp.onnx --report run.json"))
    assert re.search(r"MACs +50\.4 k", done.out)
    assert "fc1" in ok(call("inspect digits_mlp.onnx -v")).out
    run = Run.from_json(Path("run.json").read_text())
    assert run.kind == "inspect"
    assert run.models[0].macs == 64 * 256 + 256 * 128 + 128 * 10
    assert {w.name for w in run.weights} == {"fc1.weight", "fc2.weight", "fc3.weight"}


def test_inspect_knows_what_is_compressed(call, folder):
    ok(call(PLAIN))
    ok(call(f"inspect {DEFAULT} --report run.json -q"))
    run = Run.from_json(Path("run.json").read_text())
    assert {(w.encoding, w.entries) for w in run.weights} == {("codebook", 4)}


def test_compare_and_bench(call, folder):
    ok(call(PLAIN))
    done = ok(call(f"compare digits_mlp.onnx {DEFAULT} --data digits.npz --budget 0.5 --report run.json"))
    assert DEFAULT in done.out
    run = Run.from_json(Path("run.json").read_text())
    assert run.benchmark is not None
    assert len(run.benchmark.latencies) == 2
    assert run.comparisons[0].examples == 256
    assert ok(call(f"bench digits_mlp.onnx {DEFAULT} --budget 0.5")).out
    done = call(f"compare digits_mlp.onnx {DEFAULT} --no-bench --max-abs-err 1e-9")
    assert done.code == 3


def test_compare_a_model_with_itself_and_with_a_changed_one(call, folder):
    ok(call("compare digits_mlp.onnx digits_mlp.onnx --no-bench --max-abs-err 0"))
    model = onnx.load("digits_mlp.onnx")
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight.flat[0] += 1
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, model.graph.initializer[0].name))
    onnx.save(model, "changed.onnx")
    assert call("compare digits_mlp.onnx changed.onnx --no-bench --max-abs-err 0").code == 3


@pytest.mark.parametrize("gate", ["--max-abs-err 1e9", "--min-cosine -1", "--min-agreement 0"])
def test_outputs_that_are_not_numbers_pass_no_gate(call, folder, gate):
    model = onnx.load("digits_mlp.onnx")
    output = model.graph.output[0].name
    model.graph.node[-1].output[0] = "logits"
    model.graph.node.append(onnx.helper.make_node("Sqrt", ["logits"], [output]))
    onnx.save(model, "broken.onnx")
    done = call(f"compare digits_mlp.onnx broken.onnx --no-bench {gate}")
    assert done.code == 3
    assert done.err.count("\n") == 1


def test_a_stored_run_is_rendered_again(call, folder):
    first = ok(call(f"{PLAIN} --report run.json --report run.html"))
    again = ok(call("report run.json"))
    assert again.out.splitlines() == first.out.splitlines()[:-1]
    ok(call("report run.json --html again.html --md again.md"))
    assert Path("again.html").read_text() == Path("run.html").read_text()
    assert Path("again.md").read_text().lstrip().startswith("#")


@pytest.mark.parametrize(
    ("what", "holds"), [("methods", "lc-quant"), ("encodings", "codebook"), ("ops", "Conv")]
)
def test_list(call, folder, what, holds):
    assert holds in ok(call(f"list {what}")).out


# as a program -----------------------------------------------------------------------------------------


def test_as_a_program_with_warnings_as_errors(folder):
    words = [sys.executable, "-W", "error::UserWarning", "-m", "onnxcompress", *TRAINED.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*words, "-q", "--report", "run.json"], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(Path("run.json").read_text())["command"][1:3] == ["digits_mlp.onnx", "--method"]
