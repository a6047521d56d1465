"""The page in a real browser: no errors, nothing wider than a phone. Skipped where there is no Chromium."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from example import RUNS

from onnxcompress.report import render

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr",
)  # fmt: skip

PROBE = """<script>
const root = document.documentElement, wide = [];
const inside = e => e.closest('.scroll, pre') || (e.closest('svg') && e.tagName !== 'svg');
for (const e of document.querySelectorAll('body *'))
  if (!inside(e) && e.getBoundingClientRect().right > innerWidth + 0.5) wide.push(e.tagName);
const button = document.querySelector('.term');
let opened = null;
if (button) { button.click(); opened = document.querySelectorAll('.def:popover-open').length; }
parent.results.push({width: innerWidth, content: root.scrollWidth, wide, opened,
  ground: getComputedStyle(document.body).backgroundColor, text: getComputedStyle(document.body).color});
</script></body>"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: the page is not looked at"
)


def dom(page: Path, profile: Path) -> tuple[str, str]:
    """Load a page; return its document and what the browser logged of the page."""
    done = subprocess.run(
        [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={profile}",
            "--window-size=900,1200",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_pages_fit_a_phone_and_log_no_errors(tmp_path: Path) -> None:
    """All pages in frames of 390 px: a headless window itself is never that narrow."""
    frames = []
    for make in RUNS.values():
        page = render(make(), "html")
        probed = re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", PROBE)
        assert probed.count("<script>") == 1
        frames.append(f'<iframe style="width:390px;height:900px" srcdoc="{html.escape(probed)}"></iframe>')
    harness = tmp_path / "frames.html"
    harness.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><script>results = []</script>{''.join(frames)}"
        "<script>onload = () => { document.title = JSON.stringify(results) }</script>",
        encoding="utf-8",
    )
    text, console = dom(harness, tmp_path / "profile")
    assert console == ""
    found = re.search("<title>(.*?)</title>", text)
    assert found is not None
    results = json.loads(html.unescape(found.group(1)))
    assert len(results) == len(RUNS)
    for result in results:
        assert result["wide"] == []
        assert result["content"] <= 390
        assert result["opened"] == 1
        assert result["ground"] != result["text"]


def test_the_page_as_it_is_logs_nothing(tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    page.write_text(render(RUNS["hostile"](), "html"), encoding="utf-8")
    text, console = dom(page, tmp_path / "profile")
    assert console == ""
    assert "<h1>Compression report</h1>" in text
    assert "<script" not in text
