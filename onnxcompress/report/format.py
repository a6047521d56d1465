"""Numbers and untrusted text as a person reads them; the only place that rounds."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Sequence
from datetime import datetime

from onnxcompress.report.tree import Quantity

NOT_MEASURED = "not measured"
NOT_APPLICABLE = "not applicable"

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BIDI = frozenset(
    "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff"
)


def printable(text: str) -> str:
    r"""Return the text with control characters spelled out, so that it cannot move a terminal's cursor.

    Escape sequences, line breaks, characters that reverse the direction of writing and lone surrogates
    become visible.

    >>> printable("\x1b[31mW\n")
    '\\x1b[31mW\\n'
    """
    if text.isprintable() and _BIDI.isdisjoint(text):
        return text
    return "".join(_spelled(c) for c in text)


def _spelled(char: str) -> str:
    if unicodedata.category(char) in {"Cc", "Cs"} or char in _BIDI:
        return char.encode("unicode_escape", "surrogatepass").decode("ascii")
    return char


def shortened(text: str, limit: int) -> str:
    """Return the text, its middle left out where it is longer than ``limit`` characters.

    >>> shortened("backbone.stage4.block2.conv.weight", 20)
    'backbone.…onv.weight'
    """
    if len(text) <= limit:
        return text
    tail = (limit - 1) * 11 // 20
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def all_shortened(texts: Sequence[str], limit: int) -> list[str]:
    """Return each text at most ``limit`` characters long.

    Of those that this would make alike, what they begin with alike is left out first.

    >>> all_shortened(["stem", "backbone.4.conv.weight", "backbone.5.conv.weight"], 14)
    ['stem', '…4.conv.weight', '…5.conv.weight']
    """
    found = {text: shortened(text, limit) for text in texts}
    for short in set(found.values()):
        same = [text for text in found if found[text] == short]
        if len(same) > 1:
            columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*same, strict=False))
            alike = "".join(column[0] for column in columns)
            begin = max(alike.rfind("."), alike.rfind("/")) + 1
            found |= {text: shortened(f"…{text[begin:]}", limit) for text in same if begin > 1}
    return [found[text] for text in texts]


def missing(reason: str = NOT_MEASURED) -> Quantity:
    """Return what stands where a number would be."""
    return Quantity(reason, known=False)


def _unusual(value: float | None, reason: str) -> Quantity | None:
    if value is None:
        return missing(reason)
    if not math.isfinite(value):
        return Quantity("not a number" if math.isnan(value) else f"{'−' if value < 0 else ''}∞")
    return None


def digits(value: float, significant: int = 3) -> str:
    """Return a finite number with so many significant digits; powers of ten beyond 10⁻⁴ … 10⁶.

    >>> digits(0.0123456), digits(1234567.0), digits(97.9, 4), digits(2.5e-7), digits(-0.5)
    ('0.0123', '1.23·10⁶', '97.90', '2.50·10⁻⁷', '−0.500')
    """
    if value == 0:
        return "0"
    sign, size = ("−" if value < 0 else ""), abs(value)
    mantissa, exponent = f"{size:.{significant - 1}e}".split("e")
    power = int(exponent)
    if power < -4 or power >= 6:
        return f"{sign}{mantissa}·10{str(power).translate(_SUPERSCRIPT)}"
    decimals = max(0, significant - 1 - power)
    return f"{sign}{float(f'{mantissa}e{power}'):,.{decimals}f}"


def number(
    value: float | None, significant: int = 3, *, unit: str = "", reason: str = NOT_MEASURED
) -> Quantity:
    """Return a number with significant digits and its unit."""
    unusual = _unusual(value, reason)
    if unusual is not None or value is None:
        return unusual or missing(reason)
    tail = f" {unit}" if unit else ""
    return Quantity(f"{digits(value, significant)}{tail}", f"{value!r}{tail}")


def given(value: float | None) -> Quantity:
    """Return a number as a person wrote it: no zeros added.

    >>> given(0.01).text, given(100000.0).text
    ('0.01', '100,000')
    """
    unusual = _unusual(value, NOT_MEASURED)
    if unusual is not None or value is None:
        return unusual or missing()
    whole = value == round(value) and abs(value) < 1e15
    return Quantity(f"{value:,.0f}" if whole else f"{value:g}", repr(value))


def moment(started: str) -> str:
    """Return an ISO time as date, time of day and zone; the text itself where it is none.

    >>> moment("2026-11-21T04:40:40+00:00")
    '2026-11-21 04:40 UTC'
    """
    try:
        when = datetime.fromisoformat(started)
    except ValueError:
        return started
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".rstrip()


def count(value: int | None, *, reason: str = NOT_MEASURED) -> Quantity:
    """Return a whole number with its thousands separated.

    >>> count(266610).text
    '266,610'
    """
    return missing(reason) if value is None else Quantity(f"{value:,}")


def large(value: int | None, unit: str, *, reason: str = NOT_MEASURED) -> Quantity:
    """Return a large count in thousands (k), millions (M) or billions (G).

    >>> large(5_310_000_000, "MACs")
    Quantity(text='5.31 G MACs', exact='5,310,000,000 MACs', known=True)
    """
    if value is None:
        return missing(reason)
    text, prefix = _scaled(value, ("", "k", "M", "G", "T"))
    parts = [text, *([prefix] if prefix else []), *([unit] if unit else [])]
    return Quantity(" ".join(parts), f"{value:,} {unit}".rstrip())


def size(value: float | None, *, reason: str = NOT_MEASURED) -> Quantity:
    """Return bytes in decimal units: 1 kB is 1,000 bytes.

    >>> size(1_066_123)
    Quantity(text='1.07 MB', exact='1,066,123 bytes', known=True)
    """
    unusual = _unusual(value, reason)
    if unusual is not None or value is None:
        return unusual or missing(reason)
    text, prefix = _scaled(value, ("", "k", "M", "G", "T"))
    return Quantity(f"{text} {prefix}B", f"{value:,.0f} bytes")


def _scaled(value: float, prefixes: tuple[str, ...]) -> tuple[str, str]:
    """Divide by 1,000 until below 1,000; three significant digits once divided."""
    scaled, index = float(value), 0
    while abs(scaled) >= 999.5 and index < len(prefixes) - 1:
        scaled, index = scaled / 1000, index + 1
    return (f"{scaled:,.0f}" if index == 0 else digits(scaled)), prefixes[index]


def percent(fraction: float | None, significant: int = 3, *, reason: str = NOT_MEASURED) -> Quantity:
    """Return a fraction as a percentage, below 0.001 % as the fraction it is.

    >>> percent(0.0342).text, percent(1.0).text, percent(3.1e-7).text
    ('3.42 %', '100 %', '3.1·10⁻⁷')
    """
    unusual = _unusual(fraction, reason)
    if unusual is not None or fraction is None:
        return unusual or missing(reason)
    if 0 < abs(fraction) < 1e-5:
        # A percentage in powers of ten is harder to read than the fraction itself.
        return Quantity(digits(fraction, 2), repr(fraction))
    return Quantity(f"{digits(100 * fraction, significant)} %", repr(fraction))


def agreement(fraction: float | None, *, reason: str = NOT_APPLICABLE) -> Quantity:
    """Return a fraction near one as a percentage that never rounds up to 100 %.

    >>> agreement(0.99999).text, agreement(1.0).text
    ('99.99 %', '100 %')
    """
    unusual = _unusual(fraction, reason)
    if unusual is not None or fraction is None:
        return unusual or missing(reason)
    if fraction == 1:
        return Quantity("100 %", "1.0")
    return Quantity(f"{math.floor(fraction * 10_000) / 100:.2f} %", repr(fraction))


def cosine(value: float | None) -> Quantity:
    """Return a cosine similarity with as many nines as it has, up to nine digits.

    >>> cosine(0.99999731).text, cosine(0.5).text, cosine(1.0).text
    ('0.9999973', '0.500', '1')
    """
    unusual = _unusual(value, NOT_APPLICABLE)
    if unusual is not None or value is None:
        return unusual or missing(NOT_APPLICABLE)
    away = abs(1 - value)
    if away < 1e-12:
        return Quantity("1", repr(value))
    if 0 < 1 - value < 1e-9:
        return Quantity("> 0.999999999", repr(value))
    places = min(9, max(3, 1 - math.floor(math.log10(away)))) if away < 1 else 3
    return Quantity(f"{value:.{places}f}".replace("-", "−"), repr(value))


def times(ratio: float | None, *, reason: str = NOT_MEASURED) -> Quantity:
    """Return a factor, after / before.

    >>> times(0.98).text
    '0.980 ×'
    """
    unusual = _unusual(ratio, reason)
    if unusual is not None or ratio is None:
        return unusual or missing(reason)
    return Quantity(f"{digits(ratio)} ×", repr(ratio))


def milliseconds(value: float | None, *, reason: str = NOT_MEASURED) -> Quantity:
    """Return a time in the unit that suits it: ns, µs, ms or s.

    >>> milliseconds(0.0123).text, milliseconds(12345.0).text
    ('12.3 µs', '12.3 s')
    """
    unusual = _unusual(value, reason)
    if unusual is not None or value is None:
        return unusual or missing(reason)
    exact = f"{value!r} ms"
    for unit, factor in (("s", 1e-3), ("ms", 1.0), ("µs", 1e3)):
        if abs(value) * factor >= 0.9995:
            return Quantity(f"{digits(value * factor)} {unit}", exact)
    return Quantity(f"{digits(value * 1e6)} ns", exact)


def duration(seconds: float | None, *, reason: str = NOT_MEASURED) -> Quantity:
    """Return a duration in the largest two units.

    >>> duration(0.5).text, duration(75.2).text, duration(7320).text
    ('0.500 s', '1 min 15 s', '2 h 2 min')
    """
    unusual = _unusual(seconds, reason)
    if unusual is not None or seconds is None:
        return unusual or missing(reason)
    exact = f"{seconds!r} s"
    if seconds < 59.5:
        return Quantity(f"{digits(seconds)} s", exact)
    whole = round(seconds)
    if whole < 3600:
        return Quantity(f"{whole // 60} min {whole % 60} s", exact)
    minutes = round(seconds / 60)
    return Quantity(f"{minutes // 60} h {minutes % 60} min", exact)


def shape(dimensions: tuple[int, ...]) -> str:
    """Return a shape as ``300 × 784``; ``scalar`` for none."""
    return " × ".join(str(d) for d in dimensions) if dimensions else "scalar"


def plural(amount: int, noun: str, nouns: str | None = None) -> str:
    """Return a count with its noun.

    >>> plural(1, "weight"), plural(2000, "weight")
    ('1 weight', '2,000 weights')
    """
    return f"{amount:,} {noun if amount == 1 else nouns or noun + 's'}"
