"""The steps of action.yml, run as a CI job runs them: inputs in the environment, outputs in a file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ACTION = ROOT / ".ci" / "action"
INPUTS = ("MODELS", "METHOD", "OUTPUT", "DATA", "BUDGETS", "BASELINE", "STRICT", "OPTIONS")


@pytest.fixture
def job(tmp_path):
    """Run the action in a folder with a model; returns exit code, outputs and summary."""
    shutil.copy(ROOT / "fixtures" / "digits_mlp.onnx", tmp_path / "in.onnx")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, words in (("onnxcompress", "-m onnxcompress"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (tools / name).chmod(0o755)

    def run(**inputs: str):
        environment = {
            **os.environ,
            **dict.fromkeys(INPUTS, ""),
            **inputs,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "GITHUB_OUTPUT": str(tmp_path / "outputs"),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
            "RUNNER_TEMP": str(tmp_path / "temp"),
        }
        (tmp_path / "outputs").write_text("")
        done = subprocess.run(
            [ACTION, "run"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        lines = (tmp_path / "outputs").read_text().splitlines()
        return done.returncode, dict(line.split("=", 1) for line in lines), done.stderr

    return run


def test_action_hands_every_input_over_and_every_output_back():
    text = (ROOT / "action.yml").read_text()
    handed = set(re.findall(r"^ {8}(\w+): \$\{\{ inputs\.", text, re.MULTILINE))
    assert {*INPUTS, "PACKAGE_INDEX"} == handed
    declared = set(re.findall(r"^  ([\w-]+):$", text.split("outputs:")[1].split("runs:")[0], re.MULTILINE))
    script = ACTION.read_text()
    assert all(f"{name}=" in script for name in declared)
    # What a pull request controls must not be pasted into a script.
    assert "${{" not in "\n".join(re.findall(r"run: (.*)", text))


def test_compression_with_a_budget(job, tmp_path):
    (tmp_path / "budgets.toml").write_text('[models."in.onnx"]\nmax_size_ratio = 0.5\n')
    code, outputs, errors = job(
        MODELS="in.onnx", METHOD="lc-quant", OUTPUT="out file.onnx", BUDGETS="budgets.toml",
        OPTIONS="--bits 4 --no-bench",
    )  # fmt: skip
    assert code == 0, errors
    assert (tmp_path / "out file.onnx").exists()
    assert outputs["passed"] == "true"
    assert float(outputs["size-ratio"]) < 0.5
    assert outputs["latency-ratio"] == ""
    for suffix in ("html", "md", "json"):
        assert (Path(outputs["report"]) / f"report.{suffix}").exists()
    assert "Compression report" in (tmp_path / "summary.md").read_text()


def test_every_step_of_a_job_has_a_report_of_its_own(job):
    _, first, _ = job(MODELS="in.onnx", METHOD="lc-quant", OPTIONS="--bits 4 --no-bench --dry-run")
    code, second, errors = job(MODELS="in.onnx", METHOD="nonsense")
    assert code == 2, errors
    assert "size-ratio" in first
    assert "size-ratio" not in second, "nothing was measured, and the run before is no answer"
    assert first["report"] != second["report"]
    assert (Path(first["report"]) / "report.json").exists()
    assert not list(Path(second["report"]).iterdir())


def test_a_gate_that_fails_fails_the_job_and_still_reports(job, tmp_path):
    (tmp_path / "budgets.toml").write_text("[default]\nmax_bytes = 1\n")
    code, outputs, errors = job(
        MODELS="in.onnx", METHOD="lc-quant", BUDGETS="budgets.toml", OPTIONS="--bits 4 --no-bench"
    )
    assert code == 3
    assert "max_bytes" in errors
    assert outputs["passed"] == "false"
    assert float(outputs["size-ratio"]) < 1


def test_options_hold_for_every_method(job, tmp_path):
    code, outputs, errors = job(
        MODELS="in.onnx", METHOD="lc-prune lc-quant", OPTIONS="--exclude fc1* --exclude fc3* --no-bench"
    )
    assert code == 0, errors
    methods = json.loads((Path(outputs["report"]) / "report.json").read_text())["methods"]
    assert [(m["name"], m["options"]["exclude"]) for m in methods] == [
        ("lc-prune", ["fc1*", "fc3*"]),
        ("lc-quant", ["fc1*", "fc3*"]),
    ]


def test_models_are_compared_without_a_method(job):
    code, outputs, errors = job(MODELS="in.onnx in.onnx", OPTIONS="--no-bench")
    assert code == 0, errors
    assert outputs["size-ratio"] == "1"


def test_wrong_usage_is_told(job):
    code, outputs, errors = job(MODELS="missing.onnx", METHOD="lc-quant")
    assert code in (2, 4)
    assert outputs["passed"] == "false"
    assert "missing.onnx" in errors
    assert "size-ratio" not in outputs
