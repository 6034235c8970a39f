"""Write the numbers of the page.  Pure."""

from __future__ import annotations

from app import words

NO_BREAK = "\u00a0"  # a space at which no line is broken


def percent(share: float | None) -> str:
    """Return a share as `97.4 %`.  Only an exact 0 or 1 is written as 0 % or 100 %."""
    if share is None:
        return "–"
    text = f"{share * 100:.1f}".removesuffix(".0")
    text = "99.9" if text == "100" and share < 1 else "0.1" if text == "0" and share > 0 else text
    return f"{text}{NO_BREAK}%"


def usd(value: float | None) -> str:
    return "unknown" if value is None else words.usd(value)


def ms(value: float | None) -> str:
    return "–" if value is None else (words.duration(value) if value else "0 ms").replace(" ", NO_BREAK)


def size(value: float | None) -> str:
    """Return bytes as `5.2 GB` or `815 MB`: units of 1000, as Ollama prints them."""
    if value is None:
        return "–"
    number, unit = (value / 1e9, "GB") if value >= 1e9 else (value / 1e6, "MB")
    return f"{number:.3g}{NO_BREAK}{unit}"
