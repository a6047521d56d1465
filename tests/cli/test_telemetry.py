"""No telemetry: no command leaves anything in the home folder, where onnxruntime would keep an identity."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MODEL = str(FIXTURES / "digits_mlp.onnx")
COMMANDS = (
    ["inspect", MODEL],
    ["bench", MODEL, "--budget", "1"],
    [MODEL, "--method", "int8", "--way", "static", "--data", str(FIXTURES / "digits.npz"), "--dry-run"],
)


def left_in_home(home, words):
    """Run Python with an empty home folder and nothing said about telemetry; return what lies there then."""
    home.mkdir()
    said = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"}
    environment = {k: v for k, v in os.environ.items() if k not in said} | {"HOME": str(home)}
    done = subprocess.run([sys.executable, *words], env=environment, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return [path.name for path in home.rglob("*")]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: next(w for w in words if "/" not in w))
def test_nothing_is_left_in_the_home_folder(tmp_path, words):
    assert left_in_home(tmp_path / "home", ["-m", "onnxcompress", *words]) == []


def test_onnxruntime_alone_would_leave_something(tmp_path):
    """What the other test looks for is there without this package; else it would pass for no reason."""
    alone = f"import onnxruntime, time; onnxruntime.InferenceSession({MODEL!r}); time.sleep(1)"
    if not left_in_home(tmp_path / "home", ["-c", alone]):
        pytest.skip("this onnxruntime keeps nothing in the home folder")
