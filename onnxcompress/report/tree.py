"""What sections produce and renderers print: a small tree that knows no format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Name:
    """A name from the model or the machine (weight, node, path): untrusted, set as code.

    ``target`` is the key of a panel of the same document that shows more of it.
    """

    text: str
    target: str | None = None


@dataclass(frozen=True)
class Names:
    """Several names; renderers show the first few and tell how many there are."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Quantity:
    """A number as it is read: rounded, with its unit; ``exact`` keeps what rounding took away.

    ``known`` is False where the text is a reason instead of a number.
    """

    text: str
    exact: str | None = None
    known: bool = True


@dataclass(frozen=True)
class Mark:
    """A verdict: holds, does not hold, or undecided (None). The text says it without colour."""

    passed: bool | None
    text: str


@dataclass(frozen=True)
class Term:
    """A word that the glossary defines under ``key``."""

    text: str
    key: str


@dataclass(frozen=True)
class Strong:
    """Words that carry the message."""

    text: str


@dataclass(frozen=True)
class Spark:
    """A row of small bars that fits in a table cell; ``alt`` says what it shows."""

    heights: tuple[float, ...]
    alt: str


@dataclass(frozen=True)
class Meter:
    """A fraction from 0 to 1 as a bar that fits in a table cell; ``alt`` says it in words."""

    fraction: float
    alt: str


@dataclass(frozen=True)
class Chip:
    """A short label in the colour that stands for the same thing in a picture; None: grey."""

    text: str
    hue: int | None


Inline: TypeAlias = str | Name | Names | Quantity | Mark | Term | Strong | Spark | Meter | Chip


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    parts: tuple[Inline, ...]


@dataclass(frozen=True)
class Column:
    """A column: its title, the glossary key that defines it, and whether it holds numbers.

    ``wide`` columns are left out where the page is narrow and details are not asked for.
    """

    title: str
    term: str | None = None
    numeric: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table; ``long`` tables are folded where a format can fold."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Inline, ...], ...]
    long: bool = False


@dataclass(frozen=True)
class Figure:
    """One headline number."""

    label: str
    value: Quantity
    detail: str
    term: str | None = None
    tone: str = "plain"


@dataclass(frozen=True)
class Figures:
    """The headline numbers."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Callout:
    """Something the reader must not miss; ``level`` is note, good, warning or danger."""

    level: str
    title: str
    parts: tuple[Inline, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Text to copy, line breaks kept; folded under its caption when ``folded``."""

    caption: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Panel:
    """Histogram of one weight; ``marks`` are the values it may take after compression."""

    key: str
    title: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    marks: tuple[float, ...]


@dataclass(frozen=True)
class Histograms:
    """Small multiples: one histogram a weight."""

    caption: str
    alt: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Series:
    """One line: points (x, y), and its legend."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Lines:
    """A line chart; axes are logarithmic where asked."""

    caption: str
    alt: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_log: bool = False
    y_log: bool = False


@dataclass(frozen=True)
class Distribution:
    """Samples of one model."""

    name: str
    samples: tuple[float, ...]


@dataclass(frozen=True)
class Distributions:
    """Several distributions on one axis."""

    caption: str
    alt: str
    unit: str
    distributions: tuple[Distribution, ...]


@dataclass(frozen=True)
class Bar:
    """One bar: its length and the number written at its end."""

    name: str
    length: float
    value: Quantity


@dataclass(frozen=True)
class Bars:
    """Horizontal bars from zero."""

    caption: str
    alt: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Band:
    """A stripe of a box: its colour (None: grey), and the fraction of it that is kept."""

    hue: int | None
    kept: float


@dataclass(frozen=True)
class Box:
    """One box of a network: two short lines, lines told on request, stripes, and the boxes it reads."""

    title: str
    line: str
    told: tuple[str, ...]
    bands: tuple[Band, ...]
    reads: tuple[int, ...]
    end: bool = False


@dataclass(frozen=True)
class Network:
    """A network as boxes and the edges between them, each from a box with a smaller number."""

    caption: str
    alt: str
    boxes: tuple[Box, ...]


Plot: TypeAlias = Histograms | Lines | Distributions | Bars | Network
Block: TypeAlias = Paragraph | Table | Figures | Callout | Listing | Plot


@dataclass(frozen=True)
class Part:
    """One section of a document; ``detail`` is more than a first reading needs."""

    key: str
    title: str
    blocks: tuple[Block, ...]
    detail: bool = False


@dataclass(frozen=True)
class Document:
    """A whole report: title, a line below it, sections in order."""

    title: str
    subtitle: tuple[Inline, ...]
    parts: tuple[Part, ...]
