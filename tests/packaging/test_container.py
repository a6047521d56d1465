"""The Dockerfile's steps, replayed in a clean environment where no container engine is at hand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile as (instruction, arguments); comments gone, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(words[0], words[1]) for line in joined if (words := line.split(maxsplit=1))]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, arguments in instructions():
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, arguments))
    return found


def test_only_instructions_that_the_replay_understands():
    known = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in instructions()} <= known


def test_the_image_does_not_run_as_root_and_needs_no_home():
    last = stages()[-1]
    assert ("USER", "onnxcompress") in last
    order = [word for word, _ in last]
    assert order.index("USER") > order.index("RUN"), "what root does, it does before"
    environment = dict(pair.split("=", 1) for w, a in last if w == "ENV" for pair in shlex.split(a))
    assert environment["HOME"] == "/tmp", "the only place besides /models that is written to"
    assert json.loads(dict(last)["ENTRYPOINT"]) == ["onnxcompress"]


def test_what_is_copied_is_there_and_not_ignored():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for word, arguments in stages()[0]:
        if word == "COPY":
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists()
                assert source in allowed


class Replay:
    """Carries out a stage below a folder that stands for the image's root."""

    def __init__(self, root: Path, arguments: dict[str, str]) -> None:
        self.root, self.given = root, arguments
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "VIRTUAL_ENV", "COV_")) and name != "PATH"
        }
        self.environment["PATH"] = f"{Path(sys.executable).resolve().parent}:/usr/local/bin:/usr/bin:/bin"
        self.folder = root

    def inside(self, text: str) -> str:
        """Return text in which places of the image lie below the folder."""
        return re.sub(r"(?<![\w./$}])/(opt|src|models)\b", lambda m: f"{self.root}/{m[1]}", text)

    def expand(self, text: str) -> str:
        return self.inside(text).replace("$PATH", self.environment["PATH"])

    def step(self, word: str, arguments: str) -> None:
        if word == "ARG":
            name, _, default = arguments.partition("=")
            self.environment[name] = self.given.get(name, shlex.split(default)[0] if default else "")
        elif word == "ENV":
            for pair in shlex.split(arguments):
                name, value = pair.split("=", 1)
                self.environment[name] = self.expand(value)
        elif word == "WORKDIR":
            self.folder = Path(self.inside(arguments))
            self.folder.mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            *sources, target = arguments.split()
            for source in sources:
                self.copy(ROOT / source, self.folder / target)
        elif word == "RUN":
            self.run(arguments)

    def copy(self, source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / source.name if target.is_dir() else target)

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["sh", "-ec", self.inside(command)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout


@pytest.mark.slow
def test_the_steps_give_an_entry_point_that_works(tmp_path):
    # The wheels of torch may be large: another index can be named, as when the image is built.
    index = os.environ.get("TORCH_INDEX", "")
    replay = Replay(tmp_path, {"TORCH_INDEX": index})
    for word, arguments in stages()[0]:
        if word != "FROM":
            replay.step(word, arguments)
    packages = replay.run("pip list --format=freeze")
    assert "onnxcompress==" in packages
    assert not re.search(r"(?i)nvidia|cuda|triton", packages), "nothing of CUDA in the image"

    last = Replay(tmp_path, {})
    for word, arguments in stages()[-1]:
        if word in ("ENV", "WORKDIR"):
            last.step(word, arguments)
    entry = json.loads(dict(stages()[-1])["ENTRYPOINT"])
    assert "Make an ONNX model smaller" in last.run(
        shlex.join([*entry, *json.loads(dict(stages()[-1])["CMD"])])
    )
    shutil.copy(ROOT / "fixtures" / "digits_mlp.onnx", last.folder / "in.onnx")
    # Everything but /models and /tmp may be read-only: nobody writes into what was installed.
    before = sorted(p for p in (tmp_path / "opt").rglob("*") if p.is_file())
    last.run(shlex.join([*entry, "in.onnx", "--method", "lc-quant", "--bits", "4", "--no-bench", "-q"]))
    assert (last.folder / "in.lc-quant.onnx").exists()
    assert sorted(p for p in (tmp_path / "opt").rglob("*") if p.is_file()) == before
