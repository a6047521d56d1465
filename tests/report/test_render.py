"""Every run in every format: nothing is left out, nothing breaks out of its format."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from example import KINDS, RUNS, bare, compress, failing, hostile, inspect, large, pruned
from markdown_it import MarkdownIt

from onnxcompress.core.errors import UsageError
from onnxcompress.core.run import Comparison, Run, WeightFacts
from onnxcompress.report import FORMATS, print_terminal, render, schema
from onnxcompress.report.document import document, terms
from onnxcompress.report.glossary import GLOSSARY
from onnxcompress.report.markdown import code, escaped
from onnxcompress.report.sections._base import SECTIONS

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.headings: list[int] = []
        self.text: list[str] = []
        self.code: list[str] = []
        self.plain: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name, value in attrs:
            self.attributes.append((tag, name, value))
            if name == "id":
                self.ids.append(value or "")
            if name == "popovertarget" or (name == "href" and (value or "").startswith("#")):
                self.targets.append((value or "").removeprefix("#"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        (self.code if "code" in self.open else self.plain).append(data)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: render(make(), "html") for name, make in RUNS.items()}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("name", RUNS)
def test_every_run_renders_in_every_format(name: str, fmt: str) -> None:
    text = render(RUNS[name](), fmt)
    assert text.endswith("\n")
    assert len(text) > 300


@pytest.mark.parametrize("name", RUNS)
def test_every_applicable_section_is_in_every_format(name: str, pages: dict[str, str]) -> None:
    run = RUNS[name]()
    titles = [p.title for p in document(run).parts]
    assert titles[0] == "Summary"
    texts = [pages[name], render(run, "terminal"), render(run, "markdown")]
    for text in texts:
        for title in titles[1:]:
            assert title in text


def test_sections_are_found_and_ordered() -> None:
    expected = [
        "summary", "warnings", "gates", "sizes", "cuts", "outputs", "accuracy", "latency", "groups",
        "weights", "methods", "training", "refusals", "frozen", "gradients", "environment",
    ]  # fmt: skip
    found = sorted(SECTIONS, key=lambda name: SECTIONS[name].order)
    assert [name for name in found if name in expected] == expected
    assert len({s.order for s in SECTIONS.values()}) == len(SECTIONS)
    new = {"cuts", "groups", "frozen"}
    assert [p.key for p in document(compress()).parts] == [key for key in expected if key not in new]
    absent = {"groups", "training", "gradients"}
    assert [p.key for p in document(pruned()).parts] == [key for key in expected if key not in absent]
    assert "groups" in [p.key for p in document(inspect()).parts]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_run_shows_only_what_it_has(kind: str) -> None:
    keys = {p.key for p in document(bare(kind)).parts}
    assert keys - {"warnings"} == {"summary", "sizes", "environment"}


def test_unknown_format_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown report format 'pdf'"):
        render(compress(), "pdf")


# --- HTML


@pytest.mark.parametrize("name", RUNS)
def test_html_is_well_formed_and_self_contained(name: str, pages: dict[str, str]) -> None:
    page = Page(pages[name])
    assert len(page.ids) == len(set(page.ids)), [i for i, n in Counter(page.ids).items() if n > 1]
    assert set(page.targets) <= set(page.ids)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    for tag, attribute, value in page.attributes:
        assert not attribute.startswith("on"), (tag, attribute)
        if attribute in ("href", "src", "action", "srcset", "xlink:href"):
            assert (value or "").startswith("#"), (tag, attribute, value)
    style = pages[name][: pages[name].index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("name", RUNS)
def test_html_is_accessible(name: str, pages: dict[str, str]) -> None:
    page = Page(pages[name])
    assert ("html", "lang", "en") in page.attributes
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    assert page.tags["caption"] == page.tags["table"]
    pictures = [v for t, a, v in page.attributes if t == "svg" and a == "aria-label"]
    assert len(pictures) == page.tags["svg"]
    assert all(pictures)
    assert page.tags["main"] == 1


@pytest.mark.parametrize("name", RUNS)
def test_html_is_below_a_megabyte(name: str, pages: dict[str, str]) -> None:
    assert len(pages[name].encode()) <= 1_000_000


def test_html_of_a_large_run_says_what_it_leaves_out(pages: dict[str, str]) -> None:
    assert re.search(r"… and [\d,]+ more rows; the JSON report lists all", pages["large"])
    assert "more rows" not in pages["compress"]


def test_html_colours_contrast_enough() -> None:
    css = (
        Path(sys.modules["onnxcompress.report"].__file__ or "").parent / "templates/report.css"
    ).read_text()
    light, dark = css.split("@media (prefers-color-scheme: dark)")[:2]
    for block in (light, dark.split("@media")[0]):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for text in ("ink", "muted", "blue", "green", "red", "amber"):
            for ground in ("paper", "card"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for tone in ("red", "amber", "green", "blue"):
            assert contrast(colours[tone], colours[f"{tone}-soft"]) >= 4.5, tone
            assert contrast(colours["ink"], colours[f"{tone}-soft"]) >= 7, tone


def contrast(a: str, b: str) -> float:
    """WCAG 2.2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_number_of_the_page_has_its_definition(pages: dict[str, str]) -> None:
    run = compress()
    used = terms(document(run))
    assert {"size", "gzip", "macs", "relative_l2", "latency", "interval", "weight_error", "gap"} <= set(used)
    for key in used:
        assert f'id="def-{key}"' in pages["compress"]
        assert f'popovertarget="def-{key}"' in pages["compress"]


def test_plots_are_there(pages: dict[str, str]) -> None:
    for said in ("Histogram of fc1.weight", "Line chart of loss along μ", "Line chart of gap along μ",
                 "Distribution of the measured times", "Bar chart of file sizes"):  # fmt: skip
        assert f'aria-label="{said}' in pages["compress"], said
    drawn = re.search(r'aria-label="Histogram of fc1.weight[^>]*>(.*?)</svg>', pages["compress"])
    assert drawn is not None
    marks = re.search(r'class="mark" d="([^"]*)"', drawn.group(1))
    assert marks is not None
    assert marks.group(1).count("M") == 4


# --- untrusted names


def test_names_cannot_inject_into_html(pages: dict[str, str]) -> None:
    page = pages["hostile"]
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "{{7*7}}" in page
    assert "49" not in re.findall(r"\{\{|\}\}|\b49\b", page.split("</style>")[1].split("<svg")[0])
    assert "\x1b" not in page
    assert "\u202e" not in page


@pytest.mark.parametrize("fmt", ["terminal", "markdown"])
def test_names_cannot_control_a_terminal(fmt: str) -> None:
    text = render(hostile(), fmt)
    assert "\\x1b[2J" in re.sub(r"[\\]([\[\\])", r"\1", text).replace("\\\\", "\\") or fmt == "terminal"
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_names_are_no_markup_in_a_terminal() -> None:
    run = compress()
    weights = (replace(run.weights[0], name="[bold red]W[/] [link=x]"),)
    assert "[link=x]" in re.sub(r"\s+", " ", render(replace(run, weights=weights), "terminal")).replace(
        "[ l", "[l"
    )


@pytest.mark.parametrize("name", RUNS)
def test_markdown_read_by_a_parser_shows_what_was_meant(name: str) -> None:
    """markdown-it reads CommonMark with GitHub's tables; raw HTML is passed on as GitHub does."""
    text = render(RUNS[name](), "markdown")
    page = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    raw = {"details", "summary", "br", "b"}
    made = {"h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "strong", "ul", "li"}
    assert set(page.tags) <= raw | made | {"blockquote"}
    assert page.tags["table"] == len(tables(text))
    assert {a for _, a, _ in page.attributes} <= {"class", "style"}
    if name == "hostile":
        shown = "".join(page.text)
        assert shown.count("<script>alert(1)</script>\"'><img src=x onerror=alert(2)>|a`b``c|") > 30


def test_markdown_notifies_nobody() -> None:
    page = Page(
        MarkdownIt("commonmark", {"html": True}).enable("table").render(render(hostile(), "markdown"))
    )
    assert "@everyone" in "".join(page.code)
    assert "@everyone" not in "".join(page.plain)


def without_listings(text: str) -> str:
    return re.sub(r"^(`{3,})text\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)


def tables(text: str) -> list[list[str]]:
    """Return the tables of a Markdown text, code fences left out."""
    text = without_listings(text)
    found: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [t for t in found if t]


@pytest.mark.parametrize("name", RUNS)
def test_markdown_tables_are_well_formed(name: str) -> None:
    text = render(RUNS[name](), "markdown")
    found = tables(text)
    assert len(found) >= 2
    for table in found:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(cells) == 1, table[:3]
        assert re.fullmatch(r"\|( :?---:? \|)+", table[1])
    assert len(re.findall("^<details>", text, re.M)) == len(re.findall("^</details>", text, re.M))
    assert len(text) <= 65_000


def test_markdown_of_a_large_run_says_what_it_leaves_out() -> None:
    assert re.search(r"… and [\d,]+ more rows", render(large(), "markdown"))


def test_code_spans_hold_backticks() -> None:
    assert code("a`b``c") == "```a`b``c```"
    assert code("`x`") == "`` `x` ``"
    assert code("a|b", in_table=True) == "`a\\|b`"
    assert code("a|b") == "`a|b`"
    assert code("") == "(empty)"


def test_escaped_text_keeps_plain_names_readable() -> None:
    assert escaped("max_pool_2d *x* <b>") == "max_pool_2d \\*x\\* \\<b\\>"


# --- JSON


@pytest.mark.parametrize("name", RUNS)
def test_json_round_trip(name: str) -> None:
    run = RUNS[name]()
    text = render(run, "json")
    assert Run.from_json(text) == run
    assert json.loads(text)["schema"] == "onnxcompress.run/1"


def test_a_stored_run_renders_alike() -> None:
    again = Run.from_json(render(compress(), "json"))
    assert render(again, "html") == render(compress(), "html")


def test_schema_page_is_generated_from_the_code() -> None:
    page = Path(__file__).parents[2] / "docs" / "run_schema.md"
    assert page.read_text(encoding="utf-8") == schema.markdown()


def test_schema_page_describes_every_field() -> None:
    fields = {
        f"{kind.__name__}.{name}" for kind in schema.types_of_run() for name in kind.__dataclass_fields__
    }
    assert set(schema.MEANING) == fields
    assert {WeightFacts, Comparison, Run} <= set(schema.types_of_run())


# --- terminal


def test_terminal_prints_to_the_console_given() -> None:
    import io

    from rich.console import Console

    target = io.StringIO()
    print_terminal(compress(), Console(file=target, width=100))
    short = target.getvalue()
    assert "15.0 times smaller" in short
    assert "fc1.weight" not in short
    assert "With --verbose" in short
    target.truncate(0)
    print_terminal(compress(), Console(file=target, width=100), verbose=True)
    assert "fc1.weight" in target.getvalue()


@pytest.mark.parametrize("name", ["compress", "failing", "hostile", "large"])
def test_terminal_keeps_its_width(name: str) -> None:
    text = render(RUNS[name](), "terminal")
    long = [
        line for line in text.splitlines() if len(line) > 100 and not line.startswith(("Command:", "onnx"))
    ]
    assert long == []


def test_failures_are_said_without_colour() -> None:
    for fmt in ("terminal", "markdown", "html"):
        text = render(failing(), fmt)
        for said in (
            "Verification failed",
            "The file grew",
            "Trained on random data",
            "Random inputs",
            "FAILED",
        ):
            assert said in text


# --- cost


def test_importing_reports_loads_no_library() -> None:
    code = (
        "import sys, onnxcompress.report, onnxcompress.report.document as d; "
        "heavy = {'rich', 'jinja2', 'matplotlib', 'torch', 'onnxruntime', 'onnx_ir', 'numpy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_glossary_is_used() -> None:
    used = {key for make in RUNS.values() for key in terms(document(make()))}
    assert used <= set(GLOSSARY)
    assert set(GLOSSARY) - used == {"opset", "sha256"} - used
