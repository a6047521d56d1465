"""How a run ends that is stopped from outside: signals, readers that go, disks that are full, odd places."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = Path(__file__).resolve().parents[2] / "fixtures" / "digits_mlp.onnx"
HALF = "digits_mlp.onnx --method half --no-bench -q"

SLOW = """
import signal, sys, tempfile, time
# A shell lets what it runs in the background ignore Ctrl-C, and tests may run so.
signal.signal(signal.SIGINT, signal.default_int_handler)
from onnxcompress import pipeline
from onnxcompress.cli import main
def slow(request):
    with tempfile.TemporaryDirectory(dir="."):
        print("begun", flush=True)
        time.sleep(60)
pipeline.compress = slow
main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_temporary_files(folder, number):
    before = sorted(p.name for p in folder.iterdir())
    words = [sys.executable, "-c", SLOW, *HALF.split()]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "begun\n"
        assert len(list(folder.iterdir())) == len(before) + 1
        run.send_signal(number)
        _, told = run.communicate(timeout=30)
    assert run.returncode == 130
    assert told.strip() == "interrupted: no model was written"
    assert sorted(p.name for p in folder.iterdir()) == before


def test_the_caller_gets_its_signals_back(call, folder):
    before = signal.getsignal(signal.SIGTERM)
    assert call(HALF).code == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("where", ["onnxcompress.report.write", "onnxcompress.recipe.Recipe.save"])
def test_what_is_interrupted_after_the_model_says_that_there_is_one(call, folder, monkeypatch, where):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    done = call(f"{HALF} -o out.onnx --report out.json --save-recipe out.toml")
    assert done.code == 130
    assert "out.onnx was written" in done.err
    assert "no model" not in done.err
    assert Path("out.onnx").exists()
    dry = call(f"{HALF} --dry-run --report out.json --save-recipe out.toml")
    assert dry.code == 130
    assert "interrupted: no model was written" in dry.err


@pytest.mark.parametrize("words", [["list", "ops"], ["inspect", str(MODEL)], ["--help"]])
def test_a_reader_that_goes_is_no_mistake_of_ours(words):
    reading, writing = os.pipe()
    os.close(reading)
    run = [sys.executable, "-m", "onnxcompress", *words]
    done = subprocess.run(run, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == 141
    assert "internal error" not in done.stderr


@pytest.mark.parametrize("how", ["exit(0)", "exit(1)", "exit('none there')"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def f(): yield\n{how}", "--data own.py:f"),
        ("def f(): {how}", "--data own.py:f"),
        ("def f():\n    yield {how}", "--data own.py:f"),
        ("def f(outputs, labels, teacher): {how}", "--data digits.npz --loss own.py:f"),
        ("def f(outputs, labels, teacher): {how}", "--data digits.npz --metric own.py:f"),
    ],
)
def test_a_function_of_the_users_that_leaves_has_failed(call, folder, body, words, how):
    """Else the run would end without a word, as if it were done or nobody read what it says."""
    Path("own.py").write_text("from sys import exit\n" + body.format(how=how))
    done = call(f"digits_mlp.onnx --method finetune --epochs 1 -q {words}")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert f"SystemExit: {how[5:-1].strip(chr(39))}" in done.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("words", [["list", "ops"], ["inspect", str(MODEL)]])
def test_a_full_disk_is_told_in_a_sentence(words):
    run = [sys.executable, "-m", "onnxcompress", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(run, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the operating system refuses: No space left on device")


def test_other_errors_of_files_are_ours(call, folder, monkeypatch):
    def missing(*_, **__):
        Path("nowhere").read_text()

    monkeypatch.setattr("onnxcompress.pipeline.compress", missing)
    done = call(HALF)
    assert done.code == 1
    assert done.err.startswith("internal error: FileNotFoundError")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name")
@pytest.mark.parametrize(
    "words",
    [
        f"{HALF} -o there.onnx --overwrite",
        f"{HALF} --report there.json",
        f"{HALF} --save-recipe there.toml",
        "unpack packed.zst -o there.onnx --overwrite",
    ],
)
def test_a_pipe_or_device_is_not_replaced_by_a_file(call, folder, words):
    assert call("pack digits_mlp.onnx -o packed.zst").code == 0
    for suffix in ("onnx", "json", "toml"):
        os.mkfifo(f"there.{suffix}")
    done = call(words)
    assert done.code == 2
    assert "a device or pipe is there" in done.err
    assert all(Path(f"there.{suffix}").is_fifo() for suffix in ("onnx", "json", "toml"))


def test_where_no_state_can_be_kept_is_told_before_anything_is_computed(call, folder, monkeypatch):
    def computed(*_, **__):
        raise AssertionError

    monkeypatch.setattr("onnxcompress.pipeline.compress", computed)
    Path("file").touch()
    for place, why in (
        ("file", "it is not a folder"),
        ("file/deeper/state", "'file' is not a folder"),
        ("long" * 100, "File name too long"),
    ):
        done = call(f"{HALF} --checkpoint {place}")
        assert done.code == 2
        assert "cannot keep the training state" in done.err
        assert why in done.err
    assert "AssertionError" in call(f"{HALF} --checkpoint new/state").err
