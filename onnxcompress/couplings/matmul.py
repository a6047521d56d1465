"""Matrix products: the inner axis is summed over, the outer axes are made, batch axes are tied."""

from __future__ import annotations

import re

from onnxcompress.couplings._axes import has, summed
from onnxcompress.couplings._base import Crossing, coupling
from onnxcompress.couplings._products import Axis, product


@coupling("Gemm")
def _gemm(crossing: Crossing) -> None:
    turned = crossing.node.get("transA", 0), crossing.node.get("transB", 0)
    summed(crossing, (0, 0 if turned[0] else 1), (1, 1 if turned[1] else 0))
    rows, columns = crossing.labels(0, 1 if turned[0] else 0), crossing.labels(1, 0 if turned[1] else 1)
    if has(crossing, 2):
        shape = crossing.shape(2)
        if shape and shape[-1] > 1:
            columns = crossing.merge(columns, crossing.labels(2, -1))
        if len(shape) > 1 and shape[-2] > 1:
            rows = crossing.merge(rows, crossing.labels(2, -2))
    crossing.put(0, 0, rows)
    crossing.put(0, 1, columns)


coupling("FusedGemm", domain="com.microsoft")(_gemm)


def _axes(crossing: Crossing, slot: int) -> list[Axis]:
    return [(slot, axis) for axis in range(len(crossing.shape(slot)))]


@coupling("MatMul")
def _matmul(crossing: Crossing) -> None:
    product(crossing, _axes(crossing, 0), _axes(crossing, 1))


@coupling("FusedMatMul", domain="com.microsoft")
def _fused_matmul(crossing: Crossing) -> None:
    operands = []
    for slot, which in ((0, "A"), (1, "B")):
        axes = _axes(crossing, slot)
        if len(axes) > 1 and crossing.node.get(f"transBatch{which}", 0):
            # the first axis becomes the last but one
            axes.insert(len(axes) - 2, axes.pop(0))
        if len(axes) > 1 and crossing.node.get(f"trans{which}", 0):
            axes[-2:] = axes[:-3:-1]
        operands.append(axes)
    product(crossing, operands[0], operands[1])


_REPEATED = "is read along a diagonal by an Einsum"


@coupling("Einsum")
def _einsum(crossing: Crossing) -> None:
    """Tie all axes of one letter; a letter that the output does not have is summed over."""
    equation = crossing.node.attributes["equation"].replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    operands = [_letters(term, len(crossing.shape(slot))) for slot, term in enumerate(terms)]
    if arrow:
        result = _letters(right, len(crossing.out_shape()))
    else:
        used = [letter for letters in operands for letter in letters]
        once = sorted(letter for letter in set(used) if len(letter) == 1 and used.count(letter) == 1)
        result = [*_letters("...", len(crossing.out_shape()) - len(once)), *once]
    places: dict[str, list[Axis]] = {}
    for slot, letters in enumerate(operands):
        for axis, letter in enumerate(letters):
            if crossing.shape(slot)[axis] > 1:
                places.setdefault(letter, []).append((slot, axis))
    for letter, found in places.items():
        _letter(crossing, found, [axis for axis, own in enumerate(result) if own == letter])


def _letters(term: str, rank: int) -> list[str]:
    """Return a letter for each axis; those of an ellipsis are numbered from its end."""
    found: list[str] = []
    parts = re.findall(r"\.\.\.|[A-Za-z]", term)
    for part in parts:
        if part == "...":
            spread = rank - (len(parts) - 1)
            found += [f"...{spread - i}" for i in range(spread)]
        else:
            found.append(part)
    return found


def _letter(crossing: Crossing, places: list[Axis], result: list[int]) -> None:
    """Couple all axes of one letter with each other, and with the output's, if it has it."""
    slots = [slot for slot, _ in places]
    if len(set(slots)) < len(slots) or len(result) > 1:
        for place in places:
            crossing.freeze(crossing.labels(*place), _REPEATED)
        return
    if not result and len(places) == 1:
        if crossing.labels(*places[0]) is not None:
            crossing.contract(*places[0], None)
        return
    labels = crossing.labels(*places[0])
    for place in places[1:] if result else places[2:]:
        labels = crossing.merge(labels, crossing.labels(*place))
    if result:
        crossing.put(0, result[0], labels)
    else:
        summed(crossing, places[0], places[1])
