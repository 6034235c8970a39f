"""Write text tables that fit the terminal: numbers on the right, words on the left, long words in several lines."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence

from app import words

_GAP = 2
_NARROWEST = 8  # characters of a column of words
_NUMBER = re.compile(r"-?[\d.]+(e[-+]\d+)?[kMG%]?|-")
_BREAK = re.compile(r"(?<=[,/|=])(?=[^/ ])|(?<=\w[-:_.@])(?=\w)(?!(?<=\d\.)\d)")  # no break inside 0.65
_MARK = " \u200b"  # a place where textwrap may break; it is removed afterwards


def table(titles: Sequence[str], rows: Sequence[Sequence[object]], width: int | None = None) -> str:
    """Return lines of aligned columns, with `-` for None.

    Words are broken, but no numbers, until the lines have at most `width` characters (default: the terminal, or 80)."""
    if not rows:
        return "nothing yet"
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    numbers = [all(_NUMBER.fullmatch(row[n]) for row in cells if row[n]) for n in range(len(titles))]
    widths = [max(len(title), *(len(row[n]) for row in cells)) for n, title in enumerate(titles)]
    pieces = [max(len(piece) for row in (titles, *cells) for piece in _pieces(row[n])) for n in range(len(titles))]
    width = width or shutil.get_terminal_size((80, 24)).columns
    for least in (pieces, [_NARROWEST] * len(titles)):  # first at signs and spaces, then inside words
        _narrow(
            widths, [size if number else low for size, number, low in zip(widths, numbers, least, strict=True)], width
        )
    return "\n".join(line for row in (titles, *cells) for line in _lines(row, widths, numbers))


def shortened(number: float) -> str:
    """Return a number as `950`, `12.3k` or `54.2M`."""
    return words.short(number, ".6g")


def usd(cost: float | None) -> str | None:
    """Return dollars as `0`, `0.00001`, `0.8892` or `12.5`; a small cost never looks like 0."""
    if cost is None:
        return None
    if abs(cost) < 0.01:
        return f"{cost:.6f}".rstrip("0").rstrip(".")
    return shortened(round(cost, 4 if cost < 10 else 2))


def folded(title: str, text: str, indent: int) -> str:
    """Return a title and its text, which begins after `indent` characters on every line, or behind a longer title."""
    width = max(40, shutil.get_terminal_size((80, 24)).columns)
    head = f"{title} " if len(title) >= indent and title[-1:].strip() else f"{title:{indent}}"
    return textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * indent, break_on_hyphens=False)


def wrapped(text: str, indent: int = 0) -> str:
    """Fold a line to the terminal, with a hanging indent.  A line for a pipe stays whole, because programs read it."""
    width = shutil.get_terminal_size((0, 0)).columns
    if not width:
        return text
    return textwrap.fill(text, max(40, width), subsequent_indent=" " * indent, break_on_hyphens=False)


def _narrow(widths: list[int], least: Sequence[int], width: int) -> None:
    """Narrow the widest column until the line fits, or until every column has its least width."""
    excess = sum(widths) + _GAP * (len(widths) - 1) - width
    while excess > 0:
        wider = [n for n in range(len(widths)) if widths[n] > least[n]]
        if not wider:
            return
        widths[max(wider, key=lambda n: widths[n])] -= 1
        excess -= 1


def _pieces(cell: str) -> list[str]:
    return _BREAK.sub(_MARK, cell).replace(_MARK.strip(), "").split() or [""]


def _lines(row: Sequence[str], widths: Sequence[int], numbers: Sequence[bool]) -> list[str]:
    columns = [_fold(cell, width) for cell, width in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(map(len, columns))):
        parts = [column[number] if number < len(column) else "" for column in columns]
        aligned = (
            part.rjust(width) if right else part.ljust(width)
            for part, width, right in zip(parts, widths, numbers, strict=True)
        )
        lines.append((" " * _GAP).join(aligned).rstrip())
    return lines


def _fold(cell: str, width: int) -> list[str]:
    """Break a cell at spaces, and after the signs of rules, models and addresses."""
    if len(cell) <= width:
        return [cell]
    lines = textwrap.wrap(_BREAK.sub(_MARK, cell), width, break_on_hyphens=False)
    return [line.replace(_MARK, "").replace(_MARK.strip(), "") for line in lines]
