"""Write numbers and times for people, on the page and on the command line.  Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime


def duration(ms: float) -> str:
    """Return a duration as `0`, `8.5 ms`, `420 ms`, `1.3 s`, `25 s` or `2 min`."""
    if ms >= 120_000:
        return f"{ms / 60_000:.3g} min"
    if ms >= 1000:
        return f"{ms / 1000:.3g} s"
    return f"{ms:.3g} ms" if ms else "0"


def age(ms: float) -> str:
    """Return a length of time in one unit, as `now`, `12 s`, `5 min`, `3 h` or `2 d`."""
    for limit, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if ms >= limit:
            return f"{ms / limit:.0f} {unit}"
    return "now"


def utc(ms: int) -> str:
    """Return a Unix time as `2026-11-16 07:50:18Z`."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def usd(value: float) -> str:
    """Return dollars as `$0`, `$1,204.50` or `$0.0031`: below ten cents with two significant digits."""
    sign, value = ("−" if value < 0 else ""), abs(value)
    if value == 0 or value >= 0.1:
        return f"{sign}${value:,.2f}" if value else "$0"
    digits = 1 - math.floor(math.log10(value))
    return f"{sign}${value:.{digits}f}".rstrip("0")


def short(number: float, form: str) -> str:
    """Return a number from 10,000 on as `12.3k`, `54.2M` or `1.5G`, and a smaller one in the format `form`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{number:{form}}"


def rounded(value: float | None, digits: int = 1) -> float | None:
    """Return a rounded number for JSON: `250` rather than `250.0`."""
    return None if value is None else plain_number(round(value, digits))


def plain_number(value: float) -> float:
    """Return an int for a whole number."""
    return int(value) if value == int(value) else value
