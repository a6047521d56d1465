"""A document as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report import svg
from onnxcompress.report.document import document, terms
from onnxcompress.report.glossary import GLOSSARY
from onnxcompress.report.network import drawing
from onnxcompress.report.tree import (
    Bars,
    Block,
    Distributions,
    Inline,
    Lines,
    Meter,
    Names,
    Network,
    Panel,
    Spark,
    Table,
)

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

MOST_BYTES = 1_000_000
ROWS = (1000, 300, 100, 30, 10)
"""Rows shown of a table: the first of these with which the page stays below ``MOST_BYTES``."""

SHOWN_NAMES = 4
LONG_CELL = 42
"""A cell of more characters may be set on several lines."""

_UNIT = re.compile(r"(?<=\d) (?=(?:%|×|[kMGT]?B|[nµm]?s|min|h|points|MACs)(?:\W|$))")
"""The space between a number and its unit, where no line may break."""

Drawn: TypeAlias = Lines | Distributions | Bars


def render(run: Run) -> str:
    """Return the page; tables are cut, saying so, where it would exceed ``MOST_BYTES``."""
    report = document(run)
    definitions = {key: GLOSSARY[key] for key in terms(report)}
    page = ""
    for rows in ROWS:
        page = (
            _environment()
            .get_template("report.html")
            .render(report=report, definitions=definitions, most_rows=rows, shown_names=SHOWN_NAMES)
        )
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2  # noqa: PLC0415 - only where a page is asked for

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onnxcompress.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    environment.filters["kind"] = lambda value: type(value).__name__
    environment.filters["svg"] = _drawn
    environment.filters["wraps"] = _wraps
    environment.filters["listing"] = lambda listing: _Lines(listing.text)
    environment.filters["grouped"] = _grouped
    return environment


class _Lines(str):
    """Text whose line breaks are meant; ``finalize`` spells them out in every other string."""

    __slots__ = ()


def _finalized(value: object) -> object:
    if type(value) is str:
        return _UNIT.sub("\u00a0", fmt.printable(value))
    if isinstance(value, _Lines):
        return "\n".join(fmt.printable(line) for line in value.split("\n"))
    return value


def _wraps(cell: Inline) -> bool:
    """Return whether a cell is long enough to be set on several lines."""
    if isinstance(cell, Names):
        return sum(len(name) + 2 for name in cell.names) > LONG_CELL
    text = cell if isinstance(cell, str) else getattr(cell, "text", "")
    return len(text) > LONG_CELL


@dataclass(frozen=True)
class Row:
    """What is set side by side where the page is wide enough: plots, with the table they belong to."""

    table: Table | None
    plots: tuple[Drawn, ...]


def _grouped(blocks: tuple[Block, ...]) -> list[Block | Row]:
    """Put plots that follow each other, and a table just before them, into one row."""
    grouped: list[Block | Row] = []
    for block in blocks:
        last = grouped[-1] if grouped else None
        if not isinstance(block, (Lines, Distributions, Bars)):
            grouped.append(block)
        elif isinstance(last, Row):
            grouped[-1] = Row(last.table, (*last.plots, block))
        elif isinstance(last, Table) and not last.long:
            grouped[-1] = Row(last, (block,))
        else:
            grouped.append(Row(None, (block,)))
    return grouped


def _drawn(plot: Panel | Spark | Meter | Network | Drawn) -> Markup:
    """Draw a plot; what goes into the SVG is escaped where it is drawn."""
    from markupsafe import Markup  # noqa: PLC0415

    if isinstance(plot, Panel):
        return Markup(svg.histogram(plot))
    if isinstance(plot, Lines):
        return Markup(svg.lines(plot))
    if isinstance(plot, Distributions):
        return Markup(svg.distributions(plot))
    if isinstance(plot, Spark):
        return Markup(svg.spark(plot.heights, plot.alt))
    if isinstance(plot, Meter):
        return Markup(svg.meter(plot.fraction, plot.alt))
    if isinstance(plot, Network):
        return Markup(drawing.network(plot))
    return Markup(svg.bars(plot))
