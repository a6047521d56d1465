"""What must hold before anything is computed: `--help` is quick because nothing heavy is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "onnx2torch", "onnxruntime", "onnx", "onnx_ir", "matplotlib", "jinja2")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["compress", "--help"], ["--version"], ["list", "methods"]]
)
def test_nothing_heavy_is_imported(arguments):
    code = (
        "import sys\n"
        "from onnxcompress.cli import main\n"
        f"try:\n    main({arguments!r})\n"
        "except SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_a_terminal_without_the_letters_does_not_end_a_run():
    model = str(Path(__file__).resolve().parents[2] / "fixtures" / "digits_mlp.onnx")
    words = [sys.executable, "-m", "onnxcompress", "inspect", model]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "?" in done.stdout.decode("ascii")


@pytest.mark.parametrize("command", ["bench", "compare", "inspect"])
def test_commands_that_do_not_train_import_no_torch_for_their_help(command):
    code = (
        "import sys\nfrom onnxcompress.cli import main\n"
        f"try:\n    main([{command!r}, '--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
