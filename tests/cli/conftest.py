"""The command line as a person meets it: run in a folder of fixtures, exit code and both streams caught."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from onnxcompress.cli import main

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


@dataclass(frozen=True)
class Done:
    """What one call left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with the fixtures that the tests of this folder use; the call runs in it."""
    for name in ("digits_mlp.onnx", "embedding.onnx", "digits.npz", "external.onnx", "external.bin"):
        shutil.copyfile(FIXTURES / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return tmp_path


@pytest.fixture
def call(capsys):
    """Run the command line on these words: ``call("in.onnx --method lc-quant", "--labels", "a b")``."""

    def run(words: str, *more: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([*words.split(), *more])
        captured = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Done(stop.value.code, captured.out, captured.err)

    return run
