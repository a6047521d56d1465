"""A document as text for a terminal."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.characters import meter, spark, trends
from onnxcompress.report.document import document
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
    Quantity,
    Spark,
    Strong,
    Table,
    Term,
)

MOST_ROWS, MOST_ROWS_VERBOSE, SHOWN_NAMES = 16, 400, 3
WIDE = 120
ONLY_VERBOSE = frozenset(["environment", "frozen"])
"""Details that ``inspect`` too shows only when asked."""

TONES = {"good": "bold green", "bad": "bold red", "plain": "bold"}
CALLOUTS = {
    "danger": ("!!", "bold red"),
    "warning": ("!", "yellow"),
    "note": ("i", "blue"),
    "good": ("✓", "green"),
}


def render(run: Run) -> str:
    """Return the report as plain text of 100 columns."""
    text = io.StringIO()
    print_to(
        run,
        Console(file=text, width=100, color_system=None, force_terminal=False, legacy_windows=False),
        verbose=True,
    )
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def print_to(run: Run, console: Console | None = None, *, verbose: bool = False) -> None:
    """Print the report to a console (None: standard output); details of a compression only when verbose."""
    console = console or Console()
    report = document(run)
    heading = Text(report.title, style="bold")
    heading.append("  ")
    heading.append_text(_line(report.subtitle))
    console.print(heading)
    left_out = []
    for part in report.parts:
        if part.detail and not verbose and (run.kind != "inspect" or part.key in ONLY_VERBOSE):
            left_out.append(part.title.lower())
            continue
        console.print()
        console.print(Text(part.title, style="bold underline"))
        for block in part.blocks:
            _print(block, console, verbose)
    if left_out:
        console.print()
        console.print(Text(f"With --verbose or --report FILE.html also: {', '.join(left_out)}.", style="dim"))


def _print(block: Block, console: Console, verbose: bool) -> None:
    if isinstance(block, Paragraph):
        console.print(_line(block.parts))
    elif isinstance(block, Figures):
        console.print(_figures(block))
    elif isinstance(block, Callout):
        mark, style = CALLOUTS[block.level]
        text = Text(f"{mark} ", style=style)
        text.append(fmt.printable(f"{block.title}. " if block.title else ""), style=style)
        text.append_text(_line(block.parts))
        console.print(text)
    elif isinstance(block, Table):
        most = MOST_ROWS_VERBOSE if verbose else MOST_ROWS
        # Not as the grid's title, which would be folded to the width of a narrow one.
        console.print(Text(fmt.printable(block.caption), style="italic"))
        console.print(_table(block, console.width >= WIDE, verbose, most))
        if len(block.rows) > most:
            where = "a report as .html or .json lists all" if verbose else "--verbose lists more"
            more = f"… {len(block.rows) - most:,} more rows; {where}."
            console.print(Text(more, style="dim"))
    elif isinstance(block, Listing):
        if not block.folded:
            lines = "\n".join(fmt.printable(line) for line in block.text.split("\n"))
            console.print(Text(f"{block.caption}: {lines}"), soft_wrap=True)
    elif isinstance(block, Lines):
        for name, bars, ends in trends(block):
            console.print(Text(fmt.printable(f"{name}: {bars} {ends}")))


def _figures(block: Figures) -> Grid:
    grid = Grid(box=None, show_header=False, padding=(0, 2, 0, 0))
    for figure in block.figures:
        tone = TONES[figure.tone] if figure.value.known else "dim"
        grid.add_row(
            Text(fmt.printable(figure.label)),
            Text(fmt.printable(figure.value.text.strip()), style=tone),
            Text(fmt.printable(figure.detail), style="dim"),
        )
    return grid


def _table(block: Table, wide: bool, verbose: bool, most: int) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    # Small histograms, and names of many tensors, need room that a narrow terminal does not have.
    shown = [
        i
        for i, column in enumerate(block.columns)
        if wide or not ((column.wide and not verbose) or any(isinstance(row[i], Spark) for row in block.rows))
    ]
    for column in (block.columns[i] for i in shown):
        grid.add_column(
            Text(fmt.printable(column.title)), justify="right" if column.numeric else "left", overflow="fold"
        )
    for row in block.rows[:most]:
        grid.add_row(*(_inline(row[i]) for i in shown))
    return grid


def _line(parts: tuple[Inline, ...]) -> Text:
    line = Text()
    for part in parts:
        line.append_text(_inline(part))
    return line


def _inline(part: Inline) -> Text:
    if isinstance(part, Names):
        shown = ", ".join(part.names[:SHOWN_NAMES])
        more = f" and {len(part.names) - SHOWN_NAMES:,} more" if len(part.names) > SHOWN_NAMES else ""
        return Text(fmt.printable(shown + more), style="cyan")
    if isinstance(part, Spark):
        return Text(spark(part.heights), style="blue")
    if isinstance(part, Meter):
        return Text(meter(part.fraction), style="blue")
    if isinstance(part, Chip):
        return Text(fmt.printable(part.text), style="dim" if part.hue is None else "")
    if isinstance(part, Quantity):
        return Text(fmt.printable(part.text.strip()), style="" if part.known else "dim")
    if isinstance(part, Mark):
        style = {True: "green", False: "bold red", None: "yellow"}[part.passed]
        return Text(fmt.printable(part.text), style=style)
    if isinstance(part, Name):
        return Text(fmt.printable(part.text), style="cyan")
    if isinstance(part, Strong):
        return Text(fmt.printable(part.text), style="bold")
    return Text(fmt.printable(part.text if isinstance(part, Term) else part))
