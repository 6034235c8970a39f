"""Plain text tables: numbers to the right, words to the left."""

from __future__ import annotations

from collections.abc import Sequence


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lines of aligned columns; `-` for None."""
    if not rows:
        return "nothing yet"
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(title), *(len(row[n]) for row in cells)) for n, title in enumerate(titles)]
    right = [
        all(isinstance(row[n], (int, float, type(None))) and row[n] is not True for row in rows)
        for n in range(len(titles))
    ]

    def line(row: Sequence[str]) -> str:
        pairs = zip(row, widths, right, strict=True)
        return "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in pairs
        ).rstrip()

    return "\n".join(line(row) for row in (titles, *cells))
