"""Budgets, baselines and noise on the command line: exit codes, the table, and a CI job's summary."""

import json
import re
from pathlib import Path

import pytest

QUICK = "digits_mlp.onnx --method lc-quant --bits 4 --no-bench --overwrite"


def test_a_budget_that_does_not_hold_fails_with_a_table(folder, call):
    (folder / "budgets.toml").write_text('[models."digits_mlp*"]\nmax_bytes = 10\nmax_size_ratio = 0.9\n')
    done = call(f"{QUICK} --budgets budgets.toml --report run.json")
    assert done.code == 3
    assert "max_bytes is" in done.err
    assert "Limits set for this run" in done.out
    assert "FAILED" in done.out
    gates = json.loads((folder / "run.json").read_text())["gates"]
    assert {g["name"]: g["passed"] for g in gates} == {"max_bytes": False, "max_size_ratio": True}
    assert call(f"{QUICK} --budgets budgets.toml --max-bytes 1000000").code == 0  # the flag wins


def test_a_budget_that_does_not_know_the_model_is_told_before_anything_runs(folder, call):
    (folder / "budgets.toml").write_text('[models."other.onnx"]\nmax_bytes = 10\n')
    done = call(f"{QUICK} --budgets budgets.toml")
    assert done.code == 2
    assert "say nothing of this model" in done.err


def test_several_models_each_by_its_own_budget(folder, call):
    assert call(f"{QUICK} -o small.onnx").code == 0
    (folder / "budgets.toml").write_text(
        '[models."small.onnx"]\nmax_size_ratio = 0.5\n[models."embedding.onnx"]\nmax_bytes = 1\n'
    )
    done = call("compare digits_mlp.onnx small.onnx --no-bench --budgets budgets.toml --report r.json")
    assert done.code == 0, done.err
    (gate,) = json.loads((folder / "r.json").read_text())["gates"]
    assert (gate["model"], gate["passed"]) == ("small.onnx", True)


def test_a_regression_fails_and_the_job_summary_says_so(folder, call, monkeypatch):
    assert call(f"{QUICK} --report before.json").code == 0
    assert call(f"{QUICK} --baseline before.json").code == 0
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    done = call(f"{QUICK.replace('--bits 4', '--bits 8')} --baseline before.json")
    assert done.code == 3
    assert "baseline_bytes is" in done.err
    summary = (folder / "summary.md").read_text()
    assert "no worse than the baseline" in summary
    assert "FAILED" in summary
    assert (
        call(f"{QUICK.replace('--bits 4', '--bits 8')} --baseline before.json --max-regression 9").code == 0
    )


def test_a_baseline_that_is_none_is_told_before_anything_runs(folder, call):
    done = call(f"{QUICK} --baseline digits.npz")
    assert done.code == 2
    assert "the baseline is not a stored run" in done.err


def test_noise_is_unknown_and_fails_only_strictly(folder, call):
    same = "compare digits_mlp.onnx digits_mlp.onnx --budget 0.5 --max-latency-ratio 1.0 --report r.json"
    done = call(same)
    gate = json.loads((folder / "r.json").read_text())["gates"][0]
    if gate["passed"] is None:
        assert done.code == 0
        assert "unknown" in done.out
    strict = call(same + " --strict")
    gate = json.loads((folder / "r.json").read_text())["gates"][0]
    assert strict.code == (0 if gate["passed"] else 3)


@pytest.mark.parametrize("command", [QUICK, "compare digits_mlp.onnx digits_mlp.onnx --no-bench"])
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--strict", "--strict is for gates that noise leaves undecided: no gate is given"),
        ("--max-regression 0.1", "--max-regression says by how much --baseline may be exceeded"),
        ("--max-regression 0.1 --max-bytes 9e9", "--max-regression says by how much --baseline"),
    ],
)
def test_what_applies_to_gates_is_refused_without_them(folder, call, command, flags, says):
    done = call(f"{command} {flags}")
    assert done.code == 2
    assert says in done.err
    assert not (folder / "digits_mlp.lc-quant.onnx").exists()


@pytest.mark.parametrize("flags", ["--max-bytes 9e9 --strict", "--budgets budgets.toml --strict"])
def test_strict_applies_to_a_limit_and_to_budgets(folder, call, flags):
    (folder / "budgets.toml").write_text("[default]\nmax_bytes = 10_000_000\n")
    assert call(f"{QUICK} {flags}").code == 0


def test_a_model_against_itself_is_held_to_its_budget(folder, call):
    (folder / "budgets.toml").write_text('[models."digits_mlp.onnx"]\nmax_bytes = 10\n')
    words = "digits_mlp.onnx digits_mlp.onnx --no-bench -q --budgets budgets.toml"
    assert call(f"compare {words}").code == 3
    (folder / "budgets.toml").write_text('[models."digits_mlp.onnx"]\nmax_bytes = 10_000_000\n')
    assert call(f"compare {words}").code == 0


def test_every_flag_of_the_guide_exists(call):
    guide = (Path(__file__).resolve().parents[2] / "docs" / "ci.md").read_text()
    guide = guide.replace("--build-arg", "").replace("--rm", "").replace("--read-only", "")
    flags = set(re.findall(r"--[a-z][a-z-]+", guide)) - {"--tmpfs", "--user"}
    known = "".join(call(f"{name} --help").out for name in ("compress", "compare", "sensitivity"))
    assert flags <= set(re.findall(r"--[a-z][a-z-]+", known))


def test_a_drop_is_refused_first_where_labels_are_switched_off(call, folder):
    done = call(f"{QUICK} --data digits.npz --labels none --max-drop 0.1")
    assert done.code == 2
    assert "--max-drop needs the accuracy" in done.err
    assert "with labels" in done.err
