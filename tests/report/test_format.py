"""Numbers as they are read."""

from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.report import format as fmt


def test_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(fmt)
    assert result.attempted >= 15
    assert result.failed == 0


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_600, "1.00 MB"),
        (2**31, "2.15 GB"),
    ],
)
def test_bytes_are_decimal(size_bytes: int, text: str) -> None:
    assert fmt.size(size_bytes).text == text
    assert fmt.size(size_bytes).exact == f"{size_bytes:,} bytes"


def test_missing_is_said_and_not_known() -> None:
    for made in (
        fmt.size(None),
        fmt.percent(None),
        fmt.milliseconds(None),
        fmt.count(None),
        fmt.number(None),
    ):
        assert made.text == "not measured"
        assert not made.known
    assert fmt.cosine(None).text == "not applicable"


def test_numbers_that_are_none() -> None:
    assert fmt.number(math.nan).text == "not a number"
    assert fmt.given(math.nan).text == "not a number"
    assert fmt.given(math.inf).text == fmt.size(math.inf).text == "∞"
    assert fmt.percent(-math.inf).text == "−∞"


@given(st.floats(1e-4, 9.9e5))
def test_digits_are_within_half_a_unit_of_the_last(value: float) -> None:
    shown = float(fmt.digits(value).replace(",", ""))
    assert math.isclose(shown, value, rel_tol=5.1e-3)


@given(st.floats(0, 1))
def test_agreement_never_rounds_up(fraction: float) -> None:
    shown = float(fmt.agreement(fraction).text.removesuffix(" %"))
    assert shown <= 100 * fraction + 1e-9
    assert (shown == 100) == (fraction == 1)


@given(st.text())
def test_printable_text_controls_nothing(text: str) -> None:
    shown = fmt.printable(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    shown.encode("utf-8")


def test_shortened_keeps_both_ends() -> None:
    assert fmt.shortened("abc", 3) == "abc"
    assert len(fmt.shortened("x" * 50, 20)) == 20
