"""What a section is: a name, a place, when it applies, and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from onnxcompress.core.registry import Registry
from onnxcompress.core.run import Run
from onnxcompress.report.tree import Block

Build: TypeAlias = Callable[[Run], tuple[Block, ...]]


@dataclass(frozen=True)
class Section:
    """One section of a report.

    Attributes:
        name: key, unique; the anchor of the HTML page.
        title: its heading.
        order: sections are printed in ascending order.
        detail: more than a first reading needs: folded, or left out where space is short.
        applies: whether this run has something to tell here.
        build: what to tell, in no format.
    """

    name: str
    title: str
    order: int
    detail: bool
    applies: Callable[[Run], bool]
    build: Build


SECTIONS: Registry[str, Section] = Registry("onnxcompress.report.sections", "section")


def section(
    name: str, *, title: str, order: int, applies: Callable[[Run], bool], detail: bool = False
) -> Callable[[Build], Build]:
    """Register the decorated function as the section of this name."""

    def register(build: Build) -> Build:
        SECTIONS.add(name, Section(name, title, order, detail, applies, build))
        return build

    return register
