"""Writing: whole files or none, clear errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from example import compress

from onnxcompress import report
from onnxcompress.core.errors import OutputError


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(("suffix", "fmt"), report.SUFFIXES.items())
def test_the_suffix_decides(tmp_path: Path, suffix: str, fmt: str) -> None:
    path = tmp_path / f"run{suffix}"
    report.write(compress(), path)
    assert path.read_text(encoding="utf-8") == report.render(compress(), fmt)
    assert names(tmp_path) == [path.name]


def test_an_old_report_is_replaced_and_the_umask_holds(tmp_path: Path) -> None:
    path = tmp_path / "run.JSON"
    path.write_text("old")
    old = os.umask(0o027)
    try:
        report.write(compress(), path)
    finally:
        os.umask(old)
    assert path.read_text().startswith("{")
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("run.pdf", r"the suffix '\.pdf' names no format; let the name end in one of \.json, \.md, \.html"),
        ("run", "the name has no suffix"),
        ("missing/run.md", "there is no folder"),
        ("folder.md", "it is a folder"),
    ],
)
def test_impossible_paths_are_one_sentence(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(OutputError, match=said) as caught:
        report.write(compress(), tmp_path / name)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["folder.md"]


def test_a_failing_rename_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="no space left on device"):
        report.write(compress(), tmp_path / "run.html")
    assert names(tmp_path) == []


def test_a_report_that_cannot_be_rendered_touches_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.md"
    path.write_text("old")
    monkeypatch.setattr(report, "render", lambda run, fmt: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write(compress(), path)
    assert path.read_text() == "old"
