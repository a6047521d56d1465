"""A document as Markdown that reads well as a comment on a pull request."""

from __future__ import annotations

import html
import re

from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.characters import meter, spark, trends
from onnxcompress.report.document import document, terms
from onnxcompress.report.glossary import GLOSSARY
from onnxcompress.report.tree import (
    Block,
    Callout,
    Chip,
    Figures,
    Inline,
    Lines,
    Listing,
    Mark,
    Meter,
    Name,
    Names,
    Paragraph,
    Part,
    Quantity,
    Spark,
    Strong,
    Table,
    Term,
)

MOST_CHARACTERS = 60_000
"""GitHub refuses comments above 65,536 characters."""

ROWS = (200, 60, 20, 5)
SHOWN_NAMES = 4
ALERTS = {"danger": "CAUTION", "warning": "WARNING", "note": "NOTE", "good": "TIP"}
MARKS = {True: "✅", False: "❌", None: "➖"}

_SPECIAL = re.compile(r"[\\`*\[\]<>|~]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")


def render(run: Run) -> str:
    """Return the report; tables are cut, saying so, where a comment would become too long."""
    text = ""
    for rows in ROWS:
        text = _Writer(rows).page(run)
        if len(text) <= MOST_CHARACTERS:
            break
    return text


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is; a name after @ notifies nobody."""
    plain = fmt.printable(text).replace("&", "&amp;")
    return _SPECIAL.sub(lambda m: "\\" + m.group(), plain).replace("@", "@\u2060")


def code(text: str, *, in_table: bool = False) -> str:
    """Return text as a code span, with a fence longer than any run of backticks in it."""
    plain = fmt.printable(text)
    if in_table:
        plain = plain.replace("|", "\\|")
    if not plain.strip():
        return "(empty)"
    runs = [len(r) for r in re.findall("`+", plain)]
    fence = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    pad = " " if plain[0] in "` " or plain[-1] in "` " else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


class _Writer:
    """Writes one page whose tables have at most ``most_rows`` rows."""

    def __init__(self, most_rows: int) -> None:
        self.most_rows = most_rows

    def page(self, run: Run) -> str:
        report = document(run)
        pieces = [f"## {escaped(report.title)}", self.line(report.subtitle)]
        for part in report.parts:
            if part.detail:
                pieces.append(f"<details>\n<summary><b>{part.title}</b></summary>")
                pieces += [piece for block in part.blocks for piece in self.block(block, part)]
                pieces.append("</details>")
            else:
                pieces += [f"### {part.title}"] if part.key != "summary" else []
                pieces += [piece for block in part.blocks for piece in self.block(block, part)]
        pieces.append(_definitions(terms(report)))
        return "\n\n".join(p for p in pieces if p) + "\n"

    def block(self, block: Block, part: Part) -> list[str]:
        if isinstance(block, Paragraph):
            return [self.line(block.parts)]
        if isinstance(block, Figures):
            return [_figures(block)]
        if isinstance(block, Callout):
            title = f"> **{escaped(block.title)}**<br>\n" if block.title else ""
            return [f"> [!{ALERTS[block.level]}]\n{title}> {self.line(block.parts)}"]
        if isinstance(block, Table):
            captioned = sum(isinstance(b, Table) for b in part.blocks) > 1
            return self.table(block, folded=part.detail, captioned=captioned)
        if isinstance(block, Listing):
            return _listing(block)
        if isinstance(block, Lines):
            return ["\n".join(f"- {escaped(name)}: `{bars}` {ends}" for name, bars, ends in trends(block))]
        return []

    def table(self, table: Table, *, folded: bool, captioned: bool) -> list[str]:
        head = "| " + " | ".join(escaped(c.title) or " " for c in table.columns) + " |"
        rule = "|" + "|".join(" ---: " if c.numeric else " --- " for c in table.columns) + "|"
        rows = [
            "| " + " | ".join(self.inline(cell, in_table=True) or " " for cell in row) + " |"
            for row in table.rows[: self.most_rows]
        ]
        pieces = ["\n".join([head, rule, *rows])]
        if len(table.rows) > self.most_rows:
            more = len(table.rows) - self.most_rows
            pieces.append(f"… and {more:,} more rows; a report as .html or .json lists them.")
        if table.long and not folded:
            summary = f"<details>\n<summary>{_html(table.caption)}</summary>"
            return [summary, *pieces, "</details>"]
        return [f"**{escaped(table.caption)}**", *pieces] if captioned else pieces

    def line(self, parts: tuple[Inline, ...]) -> str:
        return "".join(self.inline(part) for part in parts)

    def inline(self, part: Inline, *, in_table: bool = False) -> str:
        if isinstance(part, Name):
            return code(part.text, in_table=in_table)
        if isinstance(part, Names):
            shown = ", ".join(code(n, in_table=in_table) for n in part.names[:SHOWN_NAMES])
            more = len(part.names) - SHOWN_NAMES
            return f"{shown} and {more:,} more" if more > 0 else shown
        if isinstance(part, Spark):
            return spark(part.heights)
        if isinstance(part, Meter):
            return meter(part.fraction)
        if isinstance(part, Mark):
            return f"{MARKS[part.passed]} {escaped(part.text)}"
        if isinstance(part, Strong):
            return f"**{escaped(part.text)}**"
        if isinstance(part, (Quantity, Term, Chip)):
            return escaped(part.text.strip())
        return escaped(part)


def _html(text: str) -> str:
    """Return text for inside an HTML tag, where Markdown's escapes do not count."""
    return html.escape(fmt.printable(text))


def _figures(block: Figures) -> str:
    head = "| " + " | ".join(escaped(f.label) for f in block.figures) + " |"
    rule = "|" + " :---: |" * len(block.figures)
    cells = (
        f"**{escaped(f.value.text.strip())}**" + (f"<br>{escaped(f.detail)}" if f.detail else "")
        for f in block.figures
    )
    return "\n".join((head, rule, "| " + " | ".join(cells) + " |"))


def _listing(block: Listing) -> list[str]:
    text = "\n".join(fmt.printable(line) for line in block.text.split("\n"))
    fence = "`" * max(3, 1 + max((len(r) for r in re.findall("`+", text)), default=0))
    listed = f"{fence}text\n{text}\n{fence}"
    if block.folded:
        return [f"<details>\n<summary>{_html(block.caption)}</summary>", listed, "</details>"]
    return [listed]


def _definitions(keys: tuple[str, ...]) -> str:
    if not keys:
        return ""
    lines = []
    for key in keys:
        entry = GLOSSARY[key]
        unit = f" Unit: {entry.unit}." if entry.unit else ""
        lines.append(f"- **{escaped(entry.term)}**: {escaped(entry.meaning + unit)}")
    return "<details>\n<summary>What the numbers mean</summary>\n\n" + "\n".join(lines) + "\n\n</details>"
